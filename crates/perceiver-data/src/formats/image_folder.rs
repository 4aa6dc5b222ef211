//! Image folders: one folder per class.
//!
//! Two layouts are read:
//!
//! ```text
//! root/train/<class>/image.jpg      splits given by folders; also called training
//! root/test/<class>/image.png       also called testing
//! root/val/<class>/image.png        also called valid, validation, dev; optional
//!
//! root/<class>/image.jpg            split drawn from a seed, per class
//! ```
//!
//! The first applies if `root/train` or `root/test`, in any case, has a subfolder. Without a test
//! folder, the validation folder is the test split. Classes are the folder names, sorted; there are
//! at least two. Images are the files in a class folder with an image extension, such as `.png` and
//! `.jpg`, at any depth; symbolic links are followed unless they are circular. Hidden files, other
//! files, system files and training runs are skipped. An unreadable image is logged and skipped, or
//! is an error. Images of any size are read and downscaled on loading, so that a folder of photos
//! fits into memory.
//!
//! The order is shuffled by the seed: files are listed by class, so a validation set cut from the
//! tail would contain only the last classes. Order and split are functions of the seed and of class
//! and file names, so an added image does not change the relative order of the others.
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

pub(crate) mod classes;
pub(crate) mod files;
pub(crate) mod listing;
pub(crate) mod skipped;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use perceiver_ops::RngKey;
use rayon::prelude::*;

use crate::dataset::image::Image;
use crate::dataset::image_names::name_of_file;
use crate::dataset::{Dataset, Split, TestSplit};
use crate::error::{DataError, Result};
use crate::formats::broken_images::{BrokenImages, readable, require_every_class};
use crate::formats::image_folder::classes::{Class, name_of};
use crate::formats::image_folder::listing::{FolderListing, Layout, SplitFolder, folder_below};
use crate::progress::{ProgressCallback, Work};

/// A data set of image files, and the options for reading it.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageFolder {
    /// The folder that contains the class folders, or `train` and `test`.
    pub root: PathBuf,
    /// The shorter side in pixels that images are downscaled to.
    pub shorter_side: usize,
    /// The share of each class held out for testing if the folder has no splits: above 0, below 1.
    /// A class with two or more images has at least one on either side; a single image is for
    /// training.
    pub test_fraction: f64,
    /// The seed of the order and, if the folder has no splits, of the split.
    pub seed: u64,
    /// The callback for decoding progress.
    pub watcher: ProgressCallback,
    /// The handling of unreadable images.
    pub broken: BrokenImages,
    /// An existing listing of the files; `None` to list them on demand.
    pub listing: Option<Arc<FolderListing>>,
}

/// The files of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderFiles {
    /// The path and class index of every image.
    pub files: Vec<(PathBuf, u32)>,
    /// The class names.
    pub classes: Vec<String>,
}

impl ImageFolder {
    /// Creates the options for the folder at `root`: shorter side 64 pixels, test share 0.2, seed
    /// 0, broken images skipped.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            shorter_side: 64,
            test_fraction: 0.2,
            seed: 0,
            watcher: ProgressCallback::default(),
            broken: BrokenImages::Skip,
            listing: None,
        }
    }

    /// Returns the listing, which is read now if there is none.
    ///
    /// # Errors
    /// Those of [`FolderListing::read`]; if broken images are refused, also the first folder that
    /// cannot be listed.
    pub fn listing(&self) -> Result<Arc<FolderListing>> {
        let listing = match &self.listing {
            Some(listing) => Arc::clone(listing),
            None => Arc::new(FolderListing::read(&self.root)?),
        };
        let unlisted = listing.passed_over().first_unlisted();
        if let (BrokenImages::Refuse, Some((folder, why))) = (self.broken, unlisted) {
            return Err(DataError::Inconsistent {
                name: self.name(),
                expected: "folders that can be listed".into(),
                found: format!("{}: {why}", folder.display()),
            });
        }
        Ok(listing)
    }

    /// Reads, decodes and downscales the images of a split in parallel. The validation split is
    /// empty unless there are a test and a validation folder.
    ///
    /// # Errors
    /// When there are no class folders or fewer than two, one has no image, the splits have
    /// different classes, the split is empty, or no image of it, or of a class to be learned, can
    /// be read. If broken images are refused, the error of the first one.
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

    /// Reads all images of a folder without splits, as the training part and the test part that
    /// would be drawn. `None` if the folder has splits.
    ///
    /// # Errors
    /// As for [`ImageFolder::load`], except for classes with too few images or no readable one.
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

    /// Reads the files of a split. The test split does not need every class: it is read after
    /// training, and the rest is evaluated.
    fn read(&self, files: FolderFiles, needs_every_class: bool) -> Result<Dataset> {
        let FolderFiles {
            files,
            classes: names,
        } = files;
        let decoded = self.watcher.counter(Work::Decode, files.len());
        let read = |path: &Path| Image::open_shrunk(path, self.shorter_side);
        let results: Vec<Result<Image>> = files
            .par_iter()
            .map(|(path, _)| self.broken.apply(read(path)))
            .inspect(|_| decoded.one_more())
            .collect::<Result<_>>()?;
        let all_labels: Vec<u32> = files.iter().map(|&(_, label)| label).collect();
        let (images, files) = readable(&self.name(), results.into_iter().zip(files))?;
        let labels: Vec<u32> = files.iter().map(|&(_, label)| label).collect();
        let image_names = files.iter().map(|(path, _)| name_of_file(&self.root, path));
        let image_names = image_names.collect();
        if needs_every_class {
            require_every_class(&self.name(), &all_labels, &labels, &names)?;
        }
        Dataset::new(self.name(), images, labels, names)?.with_image_names(image_names)
    }

    /// Returns the files of a split in loading order, without reading them.
    ///
    /// # Errors
    /// Those of [`ImageFolder::check`].
    pub fn files(&self, split: Split) -> Result<FolderFiles> {
        let listing = self.listing()?;
        let classes = self.classes(&listing, split)?;
        Ok(self.in_order(classes))
    }

    fn in_order(&self, classes: Vec<Class>) -> FolderFiles {
        let mut files: Vec<(u64, u32, PathBuf)> = Vec::new();
        for (label, class) in classes.iter().enumerate() {
            for image in &class.images {
                let key = self.draw("order", class, image);
                files.push((key, label as u32, image.clone()));
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

    /// Checks, without decoding, that the training and test splits have images and the same
    /// classes, at least two, and that the classes of the validation split are among them.
    ///
    /// # Errors
    /// Those of [`ImageFolder::load`], except for unreadable images.
    pub fn check(&self) -> Result<()> {
        let listing = self.listing()?;
        for split in [Split::Train, Split::Test, Split::Validation] {
            self.classes(&listing, split)?;
        }
        Ok(())
    }

    /// Returns the number of images in a split, including broken ones, without decoding.
    pub(crate) fn count(&self, split: Split) -> Result<usize> {
        let listing = self.listing()?;
        Ok(count(&self.classes(&listing, split)?))
    }

    fn name(&self) -> String {
        format!("folder:{}", self.root.display())
    }

    /// Returns the classes of the data set, in order, with the images of a split.
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
                expected: "a class with two or more images, so that one is for testing".into(),
                found: "one image in every class".into(),
            });
        }
        Ok(classes)
    }

    /// Returns the classes in the folder of a split. Training and test have the same; validation
    /// may lack some.
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
                        .map_or_else(Vec::new, |own| own.images.clone())
                };
                let class = |class: &Class| Class {
                    name: class.name.clone(),
                    images: own(class),
                };
                Ok(train.classes.iter().map(class).collect())
            }
        }
    }

    /// Checks that the classes of one split are among those of another.
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

    /// Checks that there are at least two classes.
    fn require_two(&self, classes: &[Class]) -> Result<()> {
        let [only] = classes else {
            return Ok(());
        };
        let below = folder_below(&self.root).map_or_else(String::new, |(folder, folders)| {
            let folder = folder.display();
            format!("; {folder} has {folders} folders in it: if these are the classes or splits, use folder:{folder}")
        });
        Err(DataError::Inconsistent {
            name: self.name(),
            expected: "at least two classes".into(),
            found: format!("one, {:?}{below}", only.name),
        })
    }

    /// Keeps the images of a class that belong to `split`: those with the smallest draws are for
    /// testing.
    fn keep_split(&self, class: &mut Class, split: Split) {
        let len = class.images.len();
        let wanted = (len as f64 * self.test_fraction).round() as usize;
        let test_len = wanted.max(1).min(len.saturating_sub(1));
        let mut drawn: Vec<(u64, PathBuf)> = std::mem::take(&mut class.images)
            .into_iter()
            .map(|image| (self.draw("split", class, &image), image))
            .collect();
        drawn.sort_unstable();
        let train = drawn.split_off(test_len);
        let kept = match split {
            Split::Train => train,
            Split::Test => drawn,
            Split::Validation => Vec::new(),
        };
        class.images = kept.into_iter().map(|(_, image)| image).collect();
    }

    /// Returns random bits for an image, from class and file name only, independent of the folder's
    /// location.
    fn draw(&self, purpose: &str, class: &Class, image: &Path) -> u64 {
        let key = RngKey::new(self.seed)
            .fold_in_name(purpose)
            .fold_in_name(&class.name);
        let path = image.strip_prefix(&self.root).unwrap_or(image);
        path.iter()
            .fold(key, |key, part| key.fold_in_name(&part.to_string_lossy()))
            .bits(0)
    }
}

fn count(classes: &[Class]) -> usize {
    classes.iter().map(|class| class.images.len()).sum()
}

#[cfg(test)]
mod tests;
