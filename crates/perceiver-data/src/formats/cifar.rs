//! CIFAR-10 and CIFAR-100 in their official binary layout (Krizhevsky, "Learning multiple layers of
//! features from tiny images", 2009; <https://www.cs.toronto.edu/~kriz/cifar.html>).
//!
//! | | directory | files | record |
//! |---|---|---|---|
//! | CIFAR-10 | `cifar-10-batches-bin` | `data_batch_1.bin` to `_5`, `test_batch.bin`, `batches.meta.txt` | class, pixels |
//! | CIFAR-100 | `cifar-100-binary` | `train.bin`, `test.bin`, `coarse_label_names.txt`, `fine_label_names.txt` | coarse class, fine class, pixels |
//!
//! A label is one byte. The pixels are 3,072 bytes in planes `[3, 32, 32]`, the layout of
//! [`Image`].
//!
//! ```
//! use perceiver_data::{Cifar, CifarRecord, Image, Labels, Split};
//!
//! let data = tempfile::tempdir().unwrap();
//! let records = [(0, 1), (1, 0)].map(|(coarse, fine)| CifarRecord {
//!     coarse,
//!     fine,
//!     image: Image::new(32, 32, vec![fine; 3072]).unwrap(),
//! });
//! let names = ["apple", "seal"].map(String::from);
//! Cifar::Hundred.write_names(data.path(), &names, &["mammals", "fruit"].map(String::from))?;
//! Cifar::Hundred.write(data.path(), Split::Train, &records)?;
//!
//! let train = Cifar::Hundred.read(data.path(), Split::Train, Labels::Fine)?;
//! assert_eq!(train.labels(), [1, 0]);
//! assert_eq!(train.classes(), names);
//! assert_eq!(train.groups().unwrap().of_class, [1, 0]); // an apple is a fruit
//! # Ok::<(), perceiver_data::DataError>(())
//! ```

pub(crate) mod reader;
pub(crate) mod writer;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::dataset::Split;
use crate::dataset::class_names::read_class_names;
use crate::dataset::image::{CHANNELS, Image};
use crate::dataset::labels::Labels;
use crate::error::{DataError, Result};

/// Height and width of a CIFAR image, in pixels.
pub(crate) const SIDE: usize = 32;
/// The size of a CIFAR image in bytes.
pub(crate) const PIXEL_BYTES: usize = CHANNELS * SIDE * SIDE;

/// One of the two CIFAR data sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cifar {
    /// CIFAR-10: 10 classes.
    Ten,
    /// CIFAR-100: 100 classes in 20 coarse groups.
    Hundred,
}

/// One image with its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CifarRecord {
    /// The coarse class; 0 in CIFAR-10, whose records have none.
    pub coarse: u8,
    /// The class.
    pub fine: u8,
    /// The image, 32 x 32 pixels.
    pub image: Image,
}

impl Cifar {
    /// Returns the directory that the official archive unpacks to.
    pub const fn directory(self) -> &'static str {
        match self {
            Self::Ten => "cifar-10-batches-bin",
            Self::Hundred => "cifar-100-binary",
        }
    }

    /// Returns the official number of records per file: 10,000, or 50,000 in CIFAR-100's single
    /// training file.
    pub const fn records_per_file(self, split: Split) -> usize {
        match (self, split) {
            (Self::Hundred, Split::Train) => 50_000,
            _ => 10_000,
        }
    }

    /// Returns the bytes per record: labels and pixels.
    pub const fn record_bytes(self) -> usize {
        self.label_bytes() + PIXEL_BYTES
    }

    pub(crate) const fn label_bytes(self) -> usize {
        match self {
            Self::Ten => 1,
            Self::Hundred => 2,
        }
    }

    /// Returns the files of a split inside [`Cifar::directory`], in order.
    pub(crate) const fn files(self, split: Split) -> &'static [&'static str] {
        match (self, split) {
            (Self::Ten, Split::Train) => &[
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
            ],
            (Self::Ten, Split::Test) => &["test_batch.bin"],
            (Self::Hundred, Split::Train) => &["train.bin"],
            (Self::Hundred, Split::Test) => &["test.bin"],
            (_, Split::Validation) => &[],
        }
    }

    pub(crate) const fn names_file(self, labels: Labels) -> &'static str {
        match (self, labels) {
            (Self::Ten, _) => "batches.meta.txt",
            (Self::Hundred, Labels::Fine) => "fine_label_names.txt",
            (Self::Hundred, Labels::Coarse) => "coarse_label_names.txt",
        }
    }

    /// Checks that all files exist with valid sizes, without reading the images.
    ///
    /// # Errors
    /// The error that reading would return.
    pub fn check(self, data_dir: &Path) -> Result<()> {
        self.read_names(data_dir)?;
        for split in [Split::Train, Split::Test] {
            self.count(data_dir, split)?;
        }
        Ok(())
    }

    /// Returns the number of images in a split, computed from its file sizes.
    pub(crate) fn count(self, data_dir: &Path, split: Split) -> Result<usize> {
        let files = self.files(split).iter();
        files
            .map(|file| self.count_records(&self.path(data_dir, file), split))
            .sum()
    }

    /// Whether all files exist, regardless of content.
    pub(crate) fn is_present(self, data_dir: &Path) -> bool {
        let image_files = [Split::Train, Split::Test].map(|split| self.files(split));
        let names = [Labels::Fine, Labels::Coarse].map(|labels| self.names_file(labels));
        image_files
            .into_iter()
            .flatten()
            .chain(&names)
            .all(|file| self.path(data_dir, file).is_file())
    }

    pub(crate) fn path(self, data_dir: &Path, file: &str) -> PathBuf {
        data_dir.join(self.directory()).join(file)
    }

    /// Returns the number of records in a file, computed from its size.
    pub(crate) fn count_records(self, path: &Path, split: Split) -> Result<usize> {
        let metadata = fs::metadata(path).map_err(|error| self.unreadable(path, error))?;
        let (size, record, most) = (
            metadata.len(),
            self.record_bytes() as u64,
            self.records_per_file(split) as u64,
        );
        if size == 0 || size % record != 0 || size / record > most {
            return Err(DataError::WrongSize {
                path: path.to_owned(),
                expected: format!("a whole number of {record}-byte records, from 1 to {most}"),
                found: size,
            });
        }
        Ok((size / record) as usize)
    }

    pub(crate) fn read_names(self, data_dir: &Path) -> Result<Names> {
        Ok(Names {
            fine: self.read_names_file(data_dir, Labels::Fine)?,
            coarse: match self {
                Self::Ten => Vec::new(),
                Self::Hundred => self.read_names_file(data_dir, Labels::Coarse)?,
            },
        })
    }

    fn read_names_file(self, data_dir: &Path, labels: Labels) -> Result<Vec<String>> {
        let path = self.path(data_dir, self.names_file(labels));
        // The official CIFAR-10 file ends in a blank line.
        read_class_names(&path).map_err(|error| match error {
            DataError::Missing { path, .. } => self.missing(path),
            error => error,
        })
    }

    pub(crate) fn unreadable(self, path: &Path, source: io::Error) -> DataError {
        if source.kind() == io::ErrorKind::NotFound {
            return self.missing(path.to_owned());
        }
        DataError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        }
    }

    fn missing(self, path: PathBuf) -> DataError {
        DataError::Missing {
            path,
            expected: format!(
                "a file of {self}; `cargo xtask fetch-data --dataset {self}` downloads it"
            ),
        }
    }
}

impl fmt::Display for Cifar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ten => "cifar10",
            Self::Hundred => "cifar100",
        })
    }
}

/// Class names; no coarse ones for CIFAR-10.
pub(crate) struct Names {
    pub(crate) fine: Vec<String>,
    pub(crate) coarse: Vec<String>,
}
