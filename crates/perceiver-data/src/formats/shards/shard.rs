//! One shard: its index, and its images on demand.

use std::path::{Path, PathBuf};

use crate::dataset::class_names::MAX_CLASSES;
use crate::dataset::labels::class_indices;
use crate::error::{DataError, Result};
use crate::formats::file_labels::{FileClasses, FileLabels};
use crate::formats::shards::columns::ShardColumns;
use crate::formats::shards::compression;
use crate::formats::shards::tar::{self, Span};
use crate::formats::shards::unpaired_files::UnpairedFiles;

/// An indexed shard.
#[derive(Debug)]
pub(crate) struct Shard {
    path: PathBuf,
    /// The class of every image.
    labels: Vec<u32>,
    locations: Locations,
}

/// The locations of its images.
#[derive(Debug)]
pub(super) enum Locations {
    Tar(Vec<Span>),
    /// One image per row, in these columns.
    #[cfg(feature = "parquet")]
    Parquet(ShardColumns),
}

/// The index of a file.
pub(super) struct Indexed {
    pub(super) labels: FileLabels,
    pub(super) locations: Locations,
    pub(super) unpaired: UnpairedFiles,
}

impl Indexed {
    /// Indexes the file at `path`.
    pub(super) fn open(path: &Path, columns: &ShardColumns) -> Result<Self> {
        tracing::debug!("reading {}", path.display());
        if !is_tar(path) {
            return parquet(path, columns);
        }
        let index = tar::index(path)?;
        Ok(Self {
            labels: FileLabels {
                path: path.to_owned(),
                labels: class_indices(path, &index.labels, MAX_CLASSES)?,
                classes: FileClasses::Numbers,
            },
            locations: Locations::Tar(index.spans),
            unpaired: index.unpaired,
        })
    }
}

impl Shard {
    /// Creates a shard with labels that index the data set's classes.
    pub(super) fn new(labels: FileLabels, locations: Locations) -> Self {
        Self {
            path: labels.path,
            labels: labels.labels,
            locations,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> usize {
        self.labels.len()
    }

    /// Returns the bytes of memory for the index of its images.
    pub(crate) fn index_bytes(&self) -> usize {
        let locations = match &self.locations {
            Locations::Tar(spans) => size_of_val(&spans[..]),
            #[cfg(feature = "parquet")]
            Locations::Parquet(_) => 0,
        };
        locations + size_of_val(&self.labels[..])
    }

    pub(crate) fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Returns the name of an image in errors.
    pub(crate) fn origin(&self, row: usize) -> PathBuf {
        PathBuf::from(format!("{}, image {row}", self.path.display()))
    }

    /// Returns the keys of ascending rows: names of tar members, or row numbers.
    ///
    /// # Errors
    /// When the file cannot be read, or has fewer rows.
    pub(crate) fn keys(&self, rows: &[usize]) -> Result<Vec<String>> {
        match &self.locations {
            Locations::Tar(_) => {
                let names = tar::image_names(&self.path)?;
                let named = rows.iter().map(|&row| names.get(row).cloned());
                let named: Option<Vec<String>> = named.collect();
                named.ok_or_else(|| DataError::Shard {
                    path: self.path.clone(),
                    expected: format!("{} images, as before", self.len()),
                    found: names.len().to_string(),
                })
            }
            #[cfg(feature = "parquet")]
            Locations::Parquet(_) => Ok(rows.iter().map(ToString::to_string).collect()),
        }
    }

    /// Reads the encoded images of ascending rows.
    pub(crate) fn read(&self, rows: &[usize]) -> Result<Vec<Vec<u8>>> {
        match &self.locations {
            Locations::Tar(spans) => {
                let spans = rows.iter().map(|&row| spans[row]);
                tar::read(&self.path, spans)
            }
            #[cfg(feature = "parquet")]
            Locations::Parquet(columns) => super::parquet::read(&self.path, columns, rows),
        }
    }
}

/// Whether a file is a shard, by its name. Compressed ones are included, so that they are reported
/// as errors.
pub(crate) fn is_shard(path: &Path) -> bool {
    is_tar(path) || has_extension(path, "parquet") || compression::by_name(path).is_some()
}

fn is_tar(path: &Path) -> bool {
    has_extension(path, "tar")
}

fn has_extension(path: &Path, expected: &str) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case(expected))
}

#[cfg(feature = "parquet")]
fn parquet(path: &Path, columns: &ShardColumns) -> Result<Indexed> {
    Ok(Indexed {
        labels: super::parquet::index(path, columns)?,
        locations: Locations::Parquet(columns.clone()),
        unpaired: UnpairedFiles::default(),
    })
}

#[cfg(not(feature = "parquet"))]
fn parquet(path: &Path, _: &ShardColumns) -> Result<Indexed> {
    Err(DataError::NotBuiltIn {
        what: path.display().to_string(),
        feature: "parquet",
    })
}
