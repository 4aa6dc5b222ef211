//! Pictures in folders named after their classes.
//!
//! Two layouts are read:
//!
//! ```text
//! root/train/<class>/picture.jpg      the split is the folders' own
//! root/test/<class>/picture.png
//!
//! root/<class>/picture.jpg            the split is drawn from a seed, class by class
//! ```
//!
//! The first is meant when `root/train` or `root/test` has a subfolder. Classes are the folder names, sorted. Pictures
//! are `.png`, `.jpg`, `.jpeg`, `.webp` and `.bmp` files in a class folder at any depth, symbolic links followed unless they
//! lead back; hidden files and other files are passed over. A picture that cannot be read is reported and skipped, or all are
//! refused for it. Pictures of any size are read, and shrunk on the way in, so that a folder of photographs fits into memory.
//!
//! The order of the pictures is shuffled by the seed: files come sorted by class, and a validation set cut from the
//! tail would consist of the last classes alone. Order and split are functions of the seed and of the names of class
//! and file, so one picture more leaves all others where they were relative to one another.
//!
//! ```
//! use perceiver_data::{Image, ImageFolder, Split};
//!
//! let root = tempfile::tempdir().unwrap();
//! for class in ["cat", "dog"] {
//!     std::fs::create_dir(root.path().join(class)).unwrap();
//!     for number in 0..5 {
//!         let file = root.path().join(class).join(format!("{number}.png"));
//!         Image::new(8, 12, vec![0; 3 * 8 * 12])?.write_png(&file)?;
//!     }
//! }
//! let folder = ImageFolder { shorter_side: 4, ..ImageFolder::new(root.path()) };
//! let test = folder.load(Split::Test)?;
//! assert_eq!(test.classes(), ["cat", "dog"]);
//! assert_eq!(test.len(), 2); // a fifth of each class
//! assert_eq!((test.images()[0].height(), test.images()[0].width()), (4, 6));
//! # Ok::<(), perceiver_data::DataError>(())
//! ```

use std::path::{Path, PathBuf};

use perceiver_ops::Key;
use rayon::prelude::*;

use crate::broken_pictures::{BrokenPictures, readable, require_every_class};
use crate::class_folders::{Class, class_names, has_subfolder, read_classes};
use crate::dataset::{Dataset, Split};
use crate::error::{DataError, Result};
use crate::image::Image;
use crate::watcher::{Watcher, Work};

/// A data set of picture files, and how to read it.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageFolder {
    /// The directory with the class folders, or with `train` and `test`.
    pub root: PathBuf,
    /// Pictures are shrunk until their shorter side has this many pixels.
    pub shorter_side: usize,
    /// The part of each class that is kept for testing where the folders draw no such line: above 0, below 1. A
    /// class with two or more pictures has at least one on either side; a single picture is for training.
    pub test_fraction: f64,
    /// The seed of the order and, where the folders have none, of the split.
    pub seed: u64,
    /// Who is told how far decoding is.
    pub watcher: Watcher,
    /// What becomes of pictures that cannot be read.
    pub broken: BrokenPictures,
}

/// The files of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderFiles {
    /// Every picture's file and class.
    pub files: Vec<(PathBuf, u32)>,
    /// The classes' names.
    pub classes: Vec<String>,
}

impl ImageFolder {
    /// The folder at `root`, pictures shrunk to a shorter side of 64 pixels, a test part of 0.2 and seed 0; broken ones
    /// are skipped.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            shorter_side: 64,
            test_fraction: 0.2,
            seed: 0,
            watcher: Watcher::default(),
            broken: BrokenPictures::Skip,
        }
    }

    /// Reads, decodes and shrinks a split's pictures, in parallel.
    ///
    /// # Errors
    /// When there are no class folders, when one has no picture, when `train` and `test` have different classes, when
    /// the split is empty, or when no picture of it can be read, or none of a class to be learned. Where broken pictures are
    /// refused, the first of them.
    pub fn load(&self, split: Split) -> Result<Dataset> {
        let FolderFiles {
            files,
            classes: names,
        } = self.files(split)?;
        let decoded = self.watcher.counter(Work::Decode, files.len());
        let read =
            |path: &Path| -> Result<Image> { Ok(Image::open(path)?.shrunk_to(self.shorter_side)) };
        let pictures: Vec<Result<Image>> = files
            .par_iter()
            .map(|(path, _)| self.broken.judge(read(path)))
            .inspect(|_| decoded.one_more())
            .collect::<Result<_>>()?;
        let all_labels: Vec<u32> = files.iter().map(|&(_, label)| label).collect();
        let labelled = pictures.into_iter().zip(all_labels.iter().copied());
        let (images, labels) = readable(&self.name(), labelled)?;
        if split == Split::Train {
            // Of the test split the rest is judged: it is read when all has been learned.
            require_every_class(&self.name(), &all_labels, &labels, &names)?;
        }
        Dataset::new(self.name(), images, labels, names)
    }

    /// The files of a split in the order in which they are loaded. None is read.
    ///
    /// # Errors
    /// The ones of [`ImageFolder::check`].
    pub fn files(&self, split: Split) -> Result<FolderFiles> {
        let mut files: Vec<(u64, u32, PathBuf)> = Vec::new();
        let classes = self.classes(split)?;
        for (label, class) in classes.iter().enumerate() {
            for picture in &class.pictures {
                let place = self.draw("order", class, picture);
                files.push((place, label as u32, picture.clone()));
            }
        }
        files.sort_unstable();
        let files = files.into_iter().map(|(_, label, path)| (path, label));
        let names = classes.into_iter().map(|class| class.name);
        Ok(FolderFiles {
            files: files.collect(),
            classes: names.collect(),
        })
    }

    /// Whether both splits are there with the same classes and pictures in each, without decoding any.
    ///
    /// # Errors
    /// The ones of [`ImageFolder::load`], except for files that are not the pictures they are called.
    pub fn check(&self) -> Result<()> {
        self.classes(Split::Train)?;
        self.classes(Split::Test)?;
        Ok(())
    }

    /// The number of pictures in a split, without decoding any, so that broken ones are counted too.
    pub(crate) fn count(&self, split: Split) -> Result<usize> {
        let classes = self.classes(split)?;
        Ok(classes.iter().map(|class| class.pictures.len()).sum())
    }

    fn name(&self) -> String {
        format!("folder:{}", self.root.display())
    }

    /// The classes of both splits in order, with a split's pictures.
    fn classes(&self, split: Split) -> Result<Vec<Class>> {
        if !(self.test_fraction > 0.0 && self.test_fraction < 1.0) {
            return Err(DataError::InvalidOption {
                option: "test_fraction",
                expected: "a number above 0 and below 1".into(),
                found: self.test_fraction.to_string(),
            });
        }
        let (train, test) = (self.root.join("train"), self.root.join("test"));
        let classes = if has_subfolder(&train) || has_subfolder(&test) {
            self.require_same_classes(&train, &test)?;
            read_classes(match split {
                Split::Train => &train,
                Split::Test => &test,
            })?
        } else {
            let mut classes = read_classes(&self.root)?;
            for class in &mut classes {
                self.keep_split(class, split);
            }
            classes
        };
        if classes.iter().all(|class| class.pictures.is_empty()) {
            return Err(DataError::Inconsistent {
                name: self.name(),
                expected: "a class with two pictures or more, to have one for testing".into(),
                found: "one picture in every class".into(),
            });
        }
        Ok(classes)
    }

    fn require_same_classes(&self, train: &Path, test: &Path) -> Result<()> {
        let (train_names, test_names) = (class_names(train)?, class_names(test)?);
        let lacks = |names: &[String], others: &[String], folder: &Path| {
            let missing = others.iter().find(|name| !names.contains(name));
            missing.map(|name| DataError::Inconsistent {
                name: self.name(),
                expected: "the same class folders in train and test".into(),
                found: format!("no {name:?} in {}", folder.display()),
            })
        };
        let difference = lacks(&train_names, &test_names, train)
            .or_else(|| lacks(&test_names, &train_names, test));
        difference.map_or(Ok(()), Err)
    }

    /// Keeps the pictures of a class that fall to `split`: the ones with the smallest draws are for testing.
    fn keep_split(&self, class: &mut Class, split: Split) {
        let len = class.pictures.len();
        let wanted = (len as f64 * self.test_fraction).round() as usize;
        let test_len = wanted.max(1).min(len.saturating_sub(1));
        let mut drawn: Vec<(u64, PathBuf)> = std::mem::take(&mut class.pictures)
            .into_iter()
            .map(|picture| (self.draw("split", class, &picture), picture))
            .collect();
        drawn.sort_unstable();
        let train = drawn.split_off(test_len);
        let kept = match split {
            Split::Train => train,
            Split::Test => drawn,
        };
        class.pictures = kept.into_iter().map(|(_, picture)| picture).collect();
    }

    /// Random bits for a picture, by the names of its class and file: equal wherever the folder lies.
    fn draw(&self, purpose: &str, class: &Class, picture: &Path) -> u64 {
        let key = Key::new(self.seed)
            .fold_in_name(purpose)
            .fold_in_name(&class.name);
        let path = picture.strip_prefix(&self.root).unwrap_or(picture);
        path.iter()
            .fold(key, |key, part| key.fold_in_name(&part.to_string_lossy()))
            .bits(0)
    }
}

#[cfg(test)]
mod tests;
