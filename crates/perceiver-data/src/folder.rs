//! Pictures in folders named after their classes.
//!
//! Two layouts are read:
//!
//! ```text
//! root/train/<class>/picture.jpg      the split is the folders' own; also training
//! root/test/<class>/picture.png       also testing
//! root/val/<class>/picture.png        also valid, validation, dev; may be left out
//!
//! root/<class>/picture.jpg            the split is drawn from a seed, class by class
//! ```
//!
//! The first is meant when `root/train` or `root/test`, in upper or lower case, has a subfolder. Without a test folder the
//! validation folder is the test split. Classes are the folder names, sorted; there are at least two. Pictures
//! are the files in a class folder that are called so, such as `.png` and `.jpg`, at any depth, symbolic links followed unless they
//! lead back; hidden files, other files, what systems leave beside images and training runs are passed over. A picture that
//! cannot be read is reported and skipped, or all are refused for it. Pictures of any size are read, and shrunk on the way in,
//! so that a folder of photographs fits into memory.
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
use std::sync::Arc;

use perceiver_ops::Key;
use rayon::prelude::*;

use crate::broken_pictures::{BrokenPictures, readable, require_every_class};
use crate::class_folders::{Class, name_of};
use crate::dataset::{Dataset, Split, TestSplit};
use crate::error::{DataError, Result};
use crate::folder_listing::{FolderListing, Layout, SplitFolder, folder_below};
use crate::image::Image;
use crate::image_names::name_of_file;
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
    /// The files, where they are listed already; listed anew, else.
    pub listing: Option<Arc<FolderListing>>,
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
            listing: None,
        }
    }

    /// The files, listed now if they are not yet.
    ///
    /// # Errors
    /// Those of [`FolderListing::read`]; where broken pictures are refused, also the first folder that cannot be listed.
    pub fn listing(&self) -> Result<Arc<FolderListing>> {
        let listing = match &self.listing {
            Some(listing) => Arc::clone(listing),
            None => Arc::new(FolderListing::read(&self.root)?),
        };
        let unlisted = listing.passed_over().first_unlisted();
        if let (BrokenPictures::Refuse, Some((folder, why))) = (self.broken, unlisted) {
            return Err(DataError::Inconsistent {
                name: self.name(),
                expected: "folders that can be listed".into(),
                found: format!("{}: {why}", folder.display()),
            });
        }
        Ok(listing)
    }

    /// Reads, decodes and shrinks a split's pictures, in parallel. Without a validation folder beside a test folder, the validation
    /// split is empty.
    ///
    /// # Errors
    /// When there are no class folders or fewer than two, when one has no picture, when the splits' folders have different classes,
    /// when the split is empty, or when no picture of it can be read, or none of a class to be learned. Where broken pictures are
    /// refused, the first of them.
    pub fn load(&self, split: Split) -> Result<Dataset> {
        let listing = self.listing()?;
        let classes = self.classes(&listing, split)?;
        let (kind, of) = match (&listing.layout, split) {
            (Layout::Splits { .. }, Split::Test) if listing.tested_by().is_some() => {
                (TestSplit::Validation, 0)
            }
            (Layout::Classes(all), Split::Test) => (TestSplit::HeldOut, count(all)),
            _ => (TestSplit::Own, 0),
        };
        let data = self.read(self.in_order(classes), split == Split::Train)?;
        Ok(data.with_test_split(kind, of))
    }

    /// Reads all pictures of a folder without splits: the training part and the test part that would be drawn. None where the folder
    /// has splits of its own.
    ///
    /// # Errors
    /// As for [`ImageFolder::load`], but for classes with too few pictures or none that can be read.
    pub fn load_parts(&self) -> Result<Option<[Dataset; 2]>> {
        let listing = self.listing()?;
        let Layout::Classes(all) = &listing.layout else {
            return Ok(None);
        };
        let part = |split: Split| {
            let mut classes = all.clone();
            for class in &mut classes {
                self.keep_split(class, split);
            }
            self.read(self.in_order(classes), false)
        };
        let test = part(Split::Test)?.with_test_split(TestSplit::HeldOut, count(all));
        Ok(Some([part(Split::Train)?, test]))
    }

    /// Reads files. The rest of a test split is judged where a class of it is lost: it is read when all has been learned.
    fn read(&self, files: FolderFiles, needs_every_class: bool) -> Result<Dataset> {
        let FolderFiles {
            files,
            classes: names,
        } = files;
        let decoded = self.watcher.counter(Work::Decode, files.len());
        let read = |path: &Path| Image::open_shrunk(path, self.shorter_side);
        let pictures: Vec<Result<Image>> = files
            .par_iter()
            .map(|(path, _)| self.broken.judge(read(path)))
            .inspect(|_| decoded.one_more())
            .collect::<Result<_>>()?;
        let all_labels: Vec<u32> = files.iter().map(|&(_, label)| label).collect();
        let (images, files) = readable(&self.name(), pictures.into_iter().zip(files))?;
        let labels: Vec<u32> = files.iter().map(|&(_, label)| label).collect();
        let image_names = files.iter().map(|(path, _)| name_of_file(&self.root, path));
        let image_names = image_names.collect();
        if needs_every_class {
            require_every_class(&self.name(), &all_labels, &labels, &names)?;
        }
        Dataset::new(self.name(), images, labels, names)?.with_image_names(image_names)
    }

    /// The files of a split in the order in which they are loaded. None is read.
    ///
    /// # Errors
    /// The ones of [`ImageFolder::check`].
    pub fn files(&self, split: Split) -> Result<FolderFiles> {
        let listing = self.listing()?;
        let classes = self.classes(&listing, split)?;
        Ok(self.in_order(classes))
    }

    fn in_order(&self, classes: Vec<Class>) -> FolderFiles {
        let mut files: Vec<(u64, u32, PathBuf)> = Vec::new();
        for (label, class) in classes.iter().enumerate() {
            for picture in &class.pictures {
                let place = self.draw("order", class, picture);
                files.push((place, label as u32, picture.clone()));
            }
        }
        files.sort_unstable();
        let files = files.into_iter().map(|(_, label, path)| (path, label));
        let names = classes.into_iter().map(|class| class.name);
        FolderFiles {
            files: files.collect(),
            classes: names.collect(),
        }
    }

    /// Whether a training and a test split are there with the same classes, two at least, and pictures in each, without decoding
    /// any; also, whether the classes of a validation split are among them.
    ///
    /// # Errors
    /// The ones of [`ImageFolder::load`], except for files that are not the pictures they are called.
    pub fn check(&self) -> Result<()> {
        let listing = self.listing()?;
        for split in [Split::Train, Split::Test, Split::Validation] {
            self.classes(&listing, split)?;
        }
        Ok(())
    }

    /// The number of pictures in a split, without decoding any, so that broken ones are counted too.
    pub(crate) fn count(&self, split: Split) -> Result<usize> {
        let listing = self.listing()?;
        Ok(count(&self.classes(&listing, split)?))
    }

    fn name(&self) -> String {
        format!("folder:{}", self.root.display())
    }

    /// The classes of both splits in order, with a split's pictures.
    fn classes(&self, listing: &FolderListing, split: Split) -> Result<Vec<Class>> {
        if !(self.test_fraction > 0.0 && self.test_fraction < 1.0) {
            return Err(DataError::InvalidOption {
                option: "test_fraction",
                expected: "a number above 0 and below 1".into(),
                found: self.test_fraction.to_string(),
            });
        }
        let classes = match &listing.layout {
            Layout::Splits { .. } => self.classes_of_splits(listing, split)?,
            Layout::Classes(classes) => {
                let mut classes = classes.clone();
                for class in &mut classes {
                    self.keep_split(class, split);
                }
                classes
            }
        };
        self.require_two(&classes)?;
        if split != Split::Validation && count(&classes) == 0 {
            return Err(DataError::Inconsistent {
                name: self.name(),
                expected: "a class with two pictures or more, to have one for testing".into(),
                found: "one picture in every class".into(),
            });
        }
        Ok(classes)
    }

    /// The classes in the folder of a split. Those of training and test are the same; of validation some may be missing.
    fn classes_of_splits(&self, listing: &FolderListing, split: Split) -> Result<Vec<Class>> {
        let of = |split: Split| {
            listing
                .split_folder(split)
                .ok_or_else(|| listing.missing(split))
        };
        let (train, test) = (of(Split::Train)?, of(Split::Test)?);
        self.require_among(train, test)?;
        self.require_among(test, train)?;
        match split {
            Split::Train => Ok(train.classes.clone()),
            Split::Test => Ok(test.classes.clone()),
            Split::Validation => {
                let validation = listing.split_folder(split);
                validation.map_or(Ok(()), |folder| self.require_among(folder, train))?;
                let own = |class: &Class| {
                    let mut own = validation.iter().flat_map(|folder| &folder.classes);
                    own.find(|own| own.name == class.name)
                        .map_or_else(Vec::new, |own| own.pictures.clone())
                };
                let class = |class: &Class| Class {
                    name: class.name.clone(),
                    pictures: own(class),
                };
                Ok(train.classes.iter().map(class).collect())
            }
        }
    }

    /// The classes of one split are among those of another.
    fn require_among(&self, split: &SplitFolder, other: &SplitFolder) -> Result<()> {
        let known = other.class_names();
        let mut missing = split.classes.iter();
        match missing.find(|class| !known.contains(&class.name.as_str())) {
            None => Ok(()),
            Some(class) => Err(DataError::Inconsistent {
                name: self.name(),
                expected: format!(
                    "the same class folders in {} and {}",
                    name_of(&split.path),
                    name_of(&other.path)
                ),
                found: format!("no {:?} in {}", class.name, other.path.display()),
            }),
        }
    }

    /// There is something to tell apart.
    fn require_two(&self, classes: &[Class]) -> Result<()> {
        let [only] = classes else {
            return Ok(());
        };
        let below = folder_below(&self.root).map_or_else(String::new, |(folder, folders)| {
            let folder = folder.display();
            format!("; {folder} has {folders} folders in it: if these are the classes or splits, name folder:{folder}")
        });
        Err(DataError::Inconsistent {
            name: self.name(),
            expected: "at least two classes".into(),
            found: format!("one, {:?}{below}", only.name),
        })
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
            Split::Validation => Vec::new(),
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

fn count(classes: &[Class]) -> usize {
    classes.iter().map(|class| class.pictures.len()).sum()
}

#[cfg(test)]
mod tests;
