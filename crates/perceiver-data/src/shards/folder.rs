//! Which files make up a sharded data set, and what its classes are called.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::dataset::{Dataset, Split, TestSplit};
use crate::error::{DataError, Result};
use crate::labels::numbered;
use crate::loader::Part;
use crate::shards::shard::{Shard, is_shard};
use crate::shards::streamed::Streamed;
use crate::shards::survey::Survey;
use crate::source::LoadOptions;
use crate::split_names::{TEST, TRAIN, VALIDATION, part_called, part_of_stem};

/// The file with the classes' names.
pub(super) const CLASSES: &str = "classes.txt";

/// A folder of shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardFolder {
    root: PathBuf,
    train: Vec<PathBuf>,
    test: Vec<PathBuf>,
    validation: Vec<PathBuf>,
    /// The names in [`CLASSES`].
    classes: Option<Vec<String>>,
}

impl ShardFolder {
    /// Lists the shards below `root`.
    ///
    /// # Errors
    /// [`DataError::Missing`] without the folder, and without shards to train and to test on; [`DataError::Shard`] when
    /// `classes.txt` has an empty line or a name twice.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        let mut parts = [TRAIN, TEST, VALIDATION].map(|words| (words, Vec::new()));
        for path in shards_below(&root)? {
            let part = part_of(&root, &path);
            if let Some((_, files)) = parts.iter_mut().find(|(words, _)| Some(*words) == part) {
                files.push(path);
            } else {
                tracing::debug!("{} belongs to no split: passed over", path.display());
            }
        }
        let [train, mut test, mut validation] = parts.map(|(_, mut files)| {
            files.sort();
            files
        });
        if test.is_empty() {
            std::mem::swap(&mut test, &mut validation);
        }
        for (files, part) in [(&train, "train"), (&test, "test")] {
            if files.is_empty() {
                return Err(DataError::Missing {
                    path: root.join(format!("{part}-*.tar")),
                    expected: format!("shards of the {part} split, .tar or .parquet"),
                });
            }
        }
        Ok(Self {
            classes: class_names(&root.join(CLASSES))?,
            root,
            train,
            test,
            validation,
        })
    }

    /// What the data set is called, for people.
    pub fn name(&self) -> String {
        format!("shards:{}", self.root.display())
    }

    /// Whether some shards are to choose by, and for nothing else.
    pub fn has_validation(&self) -> bool {
        !self.validation.is_empty()
    }

    /// The pictures of a split, of which places and labels are read now. Broken ones are among them until a
    /// [`Survey`](crate::Survey) has found them. They will be shrunk to `shorter_side`.
    ///
    /// # Errors
    /// [`DataError::Shard`], [`DataError::Parquet`], [`DataError::Column`] and [`DataError::LabelOutOfRange`], with the file;
    /// [`DataError::Inconsistent`] where files name other classes than those before them.
    pub fn split(&self, split: Split, shorter_side: usize) -> Result<Streamed> {
        let files = match split {
            Split::Train => &self.train,
            Split::Test => &self.test,
            Split::Validation => &self.validation,
        };
        let pictures = self.pictures(files, shorter_side)?;
        Ok(match split {
            Split::Test if self.is_tested_by_validation() => {
                pictures.with_test_split(TestSplit::Validation)
            }
            _ => pictures,
        })
    }

    /// Whether the validation shards are the test split, for want of another.
    pub fn is_tested_by_validation(&self) -> bool {
        let first = self.test.first();
        first.is_some_and(|path| part_of(&self.root, path) == Some(VALIDATION))
    }

    /// Reads all pictures of a split into memory.
    ///
    /// # Errors
    /// Those of [`ShardFolder::split`] and of [`Streamed::surveyed`], and for the first broken picture where those are refused.
    pub(crate) fn load(&self, split: Split, options: &LoadOptions) -> Result<Dataset> {
        let pictures = self.split(split, options.shorter_side)?;
        let survey = Survey::of(&pictures, Part::WHOLE, options.broken, &options.watcher)?;
        let pictures = pictures.surveyed(&survey)?;
        let all: Vec<usize> = (0..pictures.len()).collect();
        let decoded = all.par_iter().map(|&index| pictures.image(index));
        Dataset::new(
            pictures.name(),
            decoded.collect::<Result<_>>()?,
            all.iter().map(|&index| pictures.label(index)).collect(),
            pictures.classes().to_vec(),
        )
    }

    fn pictures(&self, files: &[PathBuf], shorter_side: usize) -> Result<Streamed> {
        let (shards, names) = index(files)?;
        let classes = match (&self.classes, names) {
            (Some(classes), _) => classes.clone(),
            (None, Some(names)) => names,
            (None, None) if files == self.train => numbered_classes(&shards),
            (None, None) => numbered_classes(&index(&self.train)?.0),
        };
        for shard in &shards {
            shard.require_classes(classes.len())?;
        }
        Ok(Streamed::new(self.name(), classes, shards, shorter_side))
    }
}

/// Indexed shards, and the names of their classes, if they have them.
fn index(files: &[PathBuf]) -> Result<(Vec<Shard>, Option<Vec<String>>)> {
    let indexed = files.par_iter().map(|path| Shard::open(path));
    let indexed: Vec<_> = indexed.collect::<Result<_>>()?;
    let names = indexed.first().and_then(|(_, names)| names.clone());
    let (shards, all_names): (Vec<_>, Vec<_>) = indexed.into_iter().unzip();
    if let Some(other) = all_names.iter().position(|other| *other != names) {
        let count = |names: &Option<Vec<String>>| names.as_ref().map_or(0, Vec::len);
        return Err(DataError::Inconsistent {
            name: files[other].display().to_string(),
            expected: format!("the {} class names of the files before it", count(&names)),
            found: format!("{} other names", count(&all_names[other])),
        });
    }
    Ok((shards, names))
}

/// Numbers up to the largest label.
fn numbered_classes(shards: &[Shard]) -> Vec<String> {
    let labels = shards.iter().flat_map(Shard::labels);
    numbered(labels.max().map_or(0, |&largest| largest + 1))
}

/// The part of the data set that a file belongs to, by its own name or that of its folder.
fn part_of(root: &Path, path: &Path) -> Option<&'static [&'static str]> {
    let stem = path.file_stem()?.to_str()?;
    let folder = path.strip_prefix(root).ok()?.parent()?;
    part_of_stem(stem).or_else(|| part_called(folder.file_name()?.to_str()?))
}

/// The shards in `root` and the folders in it.
fn shards_below(root: &Path) -> Result<Vec<PathBuf>> {
    let mut shards = Vec::new();
    for path in entries(root)? {
        if path.is_dir() {
            shards.extend(entries(&path)?.into_iter().filter(|path| is_shard(path)));
        } else if is_shard(&path) {
            shards.push(path);
        }
    }
    Ok(shards)
}

/// What is in a folder and not hidden.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => DataError::Missing {
            path: folder.to_owned(),
            expected: "a folder of shards".to_owned(),
        },
        _ => DataError::Io {
            action: "list",
            path: folder.to_owned(),
            source,
        },
    };
    let is_hidden = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
    };
    let paths = fs::read_dir(folder)
        .map_err(failed)?
        .map(|entry| Ok(entry?.path()))
        .filter(|path| !path.as_ref().is_ok_and(is_hidden));
    paths.collect::<io::Result<_>>().map_err(failed)
}

/// The names in the file at `path`, one a line; none without the file.
fn class_names(path: &Path) -> Result<Option<Vec<String>>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(DataError::Io {
                action: "read",
                path: path.to_owned(),
                source,
            });
        }
    };
    let names: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    let is_wrong = |at: usize| names[at].is_empty() || names[..at].contains(&names[at]);
    match (0..names.len()).find(|&at| is_wrong(at)) {
        None if !names.is_empty() => Ok(Some(names)),
        wrong => Err(DataError::Shard {
            path: path.to_owned(),
            expected: "the classes' names, one a line, each once".to_owned(),
            found: wrong.map_or("none".to_owned(), |at| {
                format!("{:?} in line {}", names[at], at + 1)
            }),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(root: &Path, files: &[&str]) {
        for file in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
    }

    #[test]
    fn parts_are_told_by_the_names_of_files_and_folders() {
        let root = tempfile::tempdir().unwrap();
        let files = [
            "train-00001.tar",
            "train-00000.tar",
            "val/b.tar",
            "test/0000.parquet",
            "other-0.tar",
            "train-2.txt",
            ".train-3.tar",
        ];
        touch(root.path(), &files);
        let folder = ShardFolder::open(root.path()).unwrap();
        let paths = |names: &[&str]| {
            names
                .iter()
                .map(|n| root.path().join(n))
                .collect::<Vec<_>>()
        };
        assert_eq!(folder.train, paths(&["train-00000.tar", "train-00001.tar"]));
        assert_eq!(folder.validation, paths(&["val/b.tar"]));
        assert_eq!(folder.test, paths(&["test/0000.parquet"]));
    }

    #[test]
    fn validation_shards_are_the_test_where_there_is_no_other() {
        let root = tempfile::tempdir().unwrap();
        touch(root.path(), &["train-0.tar", "validation-0.tar"]);
        let folder = ShardFolder::open(root.path()).unwrap();
        assert_eq!(folder.test, [root.path().join("validation-0.tar")]);
        assert!(!folder.has_validation());
        assert!(folder.is_tested_by_validation());
    }

    #[test]
    fn what_is_missing_is_named() {
        let root = tempfile::tempdir().unwrap();
        let message = |root: &Path| ShardFolder::open(root).unwrap_err().to_string();
        let nowhere = message(&root.path().join("nowhere"));
        assert!(nowhere.ends_with("nowhere is missing: expected a folder of shards"));
        touch(root.path(), &["train-0.tar"]);
        let no_test = message(root.path());
        assert!(no_test.contains("test-*.tar is missing: expected shards of the test split"));
    }

    #[test]
    fn class_names_are_lines_of_which_each_comes_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CLASSES);
        assert_eq!(class_names(&path).unwrap(), None);
        fs::write(&path, "ant\r\nbee hive\n").unwrap();
        assert_eq!(class_names(&path).unwrap().unwrap(), ["ant", "bee hive"]);
        for (text, found) in [
            ("", "found none"),
            ("a\n\nb", "\"\" in line 2"),
            ("a\nb\na", "\"a\" in line 3"),
        ] {
            fs::write(&path, text).unwrap();
            let error = class_names(&path).unwrap_err().to_string();
            assert!(error.contains(found), "{error}");
        }
    }
}
