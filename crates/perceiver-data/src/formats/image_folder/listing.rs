//! A snapshot of an image folder's files by split and class.

use std::path::{Path, PathBuf};

use crate::dataset::Split;
use crate::dataset::splits::{TEST, TRAIN, VALIDATION, split_named};
use crate::error::{DataError, Result};
use crate::formats::image_folder::classes::{Class, name_of, read_classes};
use crate::formats::image_folder::files::Walked;
use crate::formats::image_folder::skipped::PassedOver;

/// A listing of the image files of a folder, without opening any. It keeps the same files from the
/// start to the end of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderListing {
    root: PathBuf,
    pub(crate) layout: Layout,
    /// Folders with split names but without class folders, next to split folders.
    unlabelled: Vec<PathBuf>,
    passed_over: PassedOver,
}

/// The split layout of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Split folders that contain class folders.
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
    /// When it cannot be listed or has no class folders, two folders are of the same split, a class
    /// has no image, two classes have the same name, or class folders have the names of splits.
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
            let part = split_named(&name_of(&folder)).filter(|_| has_subfolder(&folder));
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
            let is_called_split = |folder: &PathBuf| split_named(&name_of(folder)).is_some();
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

    /// Whether there is a folder of the split; for the test split, a stand-in counts.
    pub fn has(&self, split: Split) -> bool {
        self.split_folder(split).is_some()
    }

    /// Returns the files and folders that were skipped.
    pub fn passed_over(&self) -> &PassedOver {
        &self.passed_over
    }

    /// Logs what was skipped, and the origin of the test split if it is the validation folder.
    pub fn log_summary(&self) {
        let name = self.name();
        self.passed_over.log(&name);
        if let Some(validation) = self.tested_by() {
            tracing::info!(
                "{name}: no test split: its validation split {} is used as the test split, and part of the training images for validation",
                validation.display()
            );
        }
    }

    /// Returns the validation folder if it stands in for a test split.
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

    /// Returns the folder of a split; `None` if there is none. The validation folder stands in for
    /// a missing test folder.
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

    /// Returns the error for a missing split next to others.
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
                "{path} is read as a split because of its name and the folders in it, such as {class:?}: if it is a class, \
                 rename it or put its images directly into it"
            ));
            if other == Split::Train {
                hints.push(format!("to draw a test split from it, use folder:{path}"));
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

/// Returns the only folder directly in `root` that has splits or at least two classes, with its
/// number of classes.
pub(crate) fn folder_below(root: &Path) -> Option<(PathBuf, usize)> {
    let below = Walked::directly_in(root).ok()?.folders.into_iter();
    let mut below = below.filter_map(|folder| {
        let folders = Walked::directly_in(&folder).ok()?.folders.len();
        (folders >= 2).then_some((folder, folders))
    });
    below.next().filter(|_| below.next().is_none())
}

/// Whether `folder` can be listed and has a visible subfolder.
fn has_subfolder(folder: &Path) -> bool {
    Walked::directly_in(folder).is_ok_and(|walked| !walked.folders.is_empty())
}

fn require_some(root: &Path, folders: &[PathBuf]) -> Result<()> {
    if folders.is_empty() {
        return Err(DataError::Missing {
            path: root.join("<class>"),
            expected: "a folder of images for every class".into(),
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

/// Checks that folders called `train` and `test` do not directly contain images, which would have
/// no classes.
fn require_no_splits_as_classes(root: &Path, folders: &[PathBuf]) -> Result<()> {
    let mut parts: Vec<&[&str]> = Vec::new();
    let mut called = Vec::new();
    for name in folders.iter().map(|folder| name_of(folder)) {
        if let Some(part) = split_named(&name) {
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
            "folders named after classes, or after splits with class folders in them, as in {}; rename them if they are classes",
            example.join("CLASS").join("image.jpg").display()
        ),
        found: format!(
            "folders named after splits, {}, without class folders",
            called.join(", ")
        ),
    })
}
