//! The image files of a folder as they were at one time, by split and class.

use std::path::{Path, PathBuf};

use crate::class_folders::{Class, name_of, read_classes};
use crate::dataset::Split;
use crate::error::{DataError, Result};
use crate::passed_over::PassedOver;
use crate::picture_files::Walked;
use crate::split_names::{TEST, TRAIN, VALIDATION, part_called};

/// The image files of a folder, none of which is opened. Whoever keeps a listing reads the same files at the end of a run as at
/// its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderListing {
    root: PathBuf,
    pub(crate) layout: Layout,
    /// Folders that are called as splits are, and have no folders in them, beside others that have.
    unlabelled: Vec<PathBuf>,
    passed_over: PassedOver,
}

/// Where the splits of a folder come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Folders of the splits' names, with class folders in them.
    Splits {
        train: Option<SplitFolder>,
        test: Option<SplitFolder>,
        validation: Option<SplitFolder>,
    },
    /// Class folders only.
    Classes(Vec<Class>),
}

/// The folder of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SplitFolder {
    pub(crate) path: PathBuf,
    pub(crate) classes: Vec<Class>,
}

impl FolderListing {
    /// Lists the folder at `root`.
    ///
    /// # Errors
    /// When it cannot be listed or has no class folders, two folders are of one split, a class has no image, two classes have
    /// one name, or the class folders are called as splits are.
    pub fn read(root: &Path) -> Result<Self> {
        let Walked {
            folders,
            mut passed_over,
            ..
        } = Walked::directly_in(root)?;
        let mut beside = Vec::new();
        let mut parts: [(_, Option<PathBuf>); 3] =
            [TRAIN, TEST, VALIDATION].map(|words| (words, None));
        for folder in folders.clone() {
            let part = part_called(&name_of(&folder)).filter(|_| has_subfolder(&folder));
            let part = parts.iter_mut().find(|(words, _)| Some(*words) == part);
            match part {
                None => beside.push(folder),
                Some((_, Some(other))) => return Err(two_of_one_split(root, other, &folder)),
                Some((_, none)) => *none = Some(folder),
            }
        }
        let [train, test, validation] = parts.map(|(_, folder)| folder);
        let is_split =
            train.is_some() || test.is_some() || (validation.is_some() && beside.is_empty());
        let mut unlabelled = Vec::new();
        let layout = if is_split {
            let is_called_split = |folder: &PathBuf| part_called(&name_of(folder)).is_some();
            unlabelled.extend(
                beside
                    .iter()
                    .filter(|folder| is_called_split(folder))
                    .cloned(),
            );
            for folder in beside {
                passed_over.add_beside_splits(folder);
            }
            Layout::Splits {
                train: SplitFolder::read(train, &mut passed_over)?,
                test: SplitFolder::read(test, &mut passed_over)?,
                validation: SplitFolder::read(validation, &mut passed_over)?,
            }
        } else {
            require_no_splits_as_classes(root, &folders)?;
            require_some(root, &folders)?;
            let classes = read_classes(folders, &mut passed_over)?;
            Layout::Classes(classes)
        };
        Ok(Self {
            root: root.to_owned(),
            layout,
            unlabelled,
            passed_over,
        })
    }

    /// Whether there is a folder of the split, and for the test split one that stands in its place.
    pub fn has(&self, split: Split) -> bool {
        self.split_folder(split).is_some()
    }

    /// What was passed over.
    pub fn passed_over(&self) -> &PassedOver {
        &self.passed_over
    }

    /// Tells people what was passed over, and where the splits come from if that is not what one would expect.
    pub fn say(&self) {
        let name = self.name();
        self.passed_over.say(&name);
        if let Some(validation) = self.tested_by() {
            tracing::info!(
                "{name}: no test split: its validation split {} is kept for the test, and a part of the training images validates",
                validation.display()
            );
        }
    }

    /// The folder of the validation split, where it stands in the place of a test split.
    pub(crate) fn tested_by(&self) -> Option<&Path> {
        match &self.layout {
            Layout::Splits {
                test: None,
                validation: Some(validation),
                ..
            } => Some(&validation.path),
            _ => None,
        }
    }

    /// The folder of a split; none where it has none, or the splits are no folders. Without a test split, the validation split is
    /// in its place.
    pub(crate) fn split_folder(&self, split: Split) -> Option<&SplitFolder> {
        let Layout::Splits {
            train,
            test,
            validation,
        } = &self.layout
        else {
            return None;
        };
        match split {
            Split::Train => train.as_ref(),
            Split::Test => test.as_ref().or(validation.as_ref()),
            Split::Validation => validation.as_ref().filter(|_| test.is_some()),
        }
    }

    /// Why there is no `split` in a folder that has others.
    pub(crate) fn missing(&self, split: Split) -> DataError {
        let (wanted, other) = match split {
            Split::Train => ("train", Split::Test),
            Split::Test | Split::Validation => ("test", Split::Train),
        };
        let mut hints = Vec::new();
        if let Some(there) = self.split_folder(other) {
            let path = there.path.display();
            let class = there.classes.first();
            let class = class.map_or("a folder", |class| class.name.as_str());
            hints.push(format!(
                "{path} was taken for a split, by its name and because it has folders in it, such as {class:?}: if it is a class, \
                 rename it or put its images directly into it"
            ));
            if other == Split::Train {
                hints.push(format!(
                    "to have a test split drawn from it, name folder:{path}"
                ));
            }
        }
        if let Some(unlabelled) = self.unlabelled.first() {
            hints.push(format!(
                "{} has no class folders in it",
                unlabelled.display()
            ));
        }
        DataError::Missing {
            path: self.root.join(wanted),
            expected: format!(
                "the class folders of the {wanted} split; {}",
                hints.join("; ")
            ),
        }
    }

    fn name(&self) -> String {
        format!("folder:{}", self.root.display())
    }
}

impl SplitFolder {
    fn read(path: Option<PathBuf>, passed_over: &mut PassedOver) -> Result<Option<Self>> {
        let Some(path) = path else {
            return Ok(None);
        };
        let Walked {
            folders,
            passed_over: here,
            ..
        } = Walked::directly_in(&path)?;
        passed_over.join(here);
        let classes = read_classes(folders, passed_over)?;
        Ok(Some(Self { path, classes }))
    }

    pub(crate) fn class_names(&self) -> Vec<&str> {
        self.classes
            .iter()
            .map(|class| class.name.as_str())
            .collect()
    }
}

/// The folder directly in `root` that has splits or at least two classes, if there is just one such.
pub(crate) fn folder_below(root: &Path) -> Option<(PathBuf, usize)> {
    let below = Walked::directly_in(root).ok()?.folders.into_iter();
    let mut below = below.filter_map(|folder| {
        let folders = Walked::directly_in(&folder).ok()?.folders.len();
        (folders >= 2).then_some((folder, folders))
    });
    below.next().filter(|_| below.next().is_none())
}

/// Whether `folder` can be listed and has a visible folder in it.
fn has_subfolder(folder: &Path) -> bool {
    Walked::directly_in(folder).is_ok_and(|walked| !walked.folders.is_empty())
}

fn require_some(root: &Path, folders: &[PathBuf]) -> Result<()> {
    if folders.is_empty() {
        return Err(DataError::Missing {
            path: root.join("<class>"),
            expected: "a folder of pictures for every class".into(),
        });
    }
    Ok(())
}

fn two_of_one_split(root: &Path, one: &Path, other: &Path) -> DataError {
    DataError::Inconsistent {
        name: format!("folder:{}", root.display()),
        expected: "one folder for each split; rename or join them".into(),
        found: format!("{:?} and {:?}", name_of(one), name_of(other)),
    }
}

/// Images that lie directly in folders called `train` and `test` have no classes.
fn require_no_splits_as_classes(root: &Path, folders: &[PathBuf]) -> Result<()> {
    let mut parts: Vec<&[&str]> = Vec::new();
    let mut called = Vec::new();
    for name in folders.iter().map(|folder| name_of(folder)) {
        if let Some(part) = part_called(&name) {
            called.push(format!("{name:?}"));
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
    }
    if parts.len() < 2 {
        return Ok(());
    }
    let example = root.join(called[0].trim_matches('"'));
    Err(DataError::Inconsistent {
        name: format!("folder:{}", root.display()),
        expected: format!(
            "folders called after classes, or after splits with class folders in them, as in {}; rename them if they are classes",
            example.join("CLASS").join("image.jpg").display()
        ),
        found: format!(
            "the splits' names {} without class folders",
            called.join(", ")
        ),
    })
}
