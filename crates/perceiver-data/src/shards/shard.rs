//! One file of many pictures: what is known of it without reading any, and pictures when they are asked for.

use std::path::{Path, PathBuf};

use crate::class_names::MAX_CLASSES;
use crate::error::{DataError, Result};
use crate::file_labels::{FileClasses, FileLabels};
use crate::labels::class_indices;
use crate::shards::compression;
use crate::shards::tar_shard::{self, Span};
use crate::shards::unpaired_files::UnpairedFiles;

/// The columns of Parquet shards that were named; others are told by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(feature = "parquet"), allow(dead_code))]
pub(crate) struct ShardColumns {
    pub(crate) image: Option<String>,
    pub(crate) label: Option<String>,
}

/// An indexed shard.
#[derive(Debug)]
pub(crate) struct Shard {
    path: PathBuf,
    /// The class of every picture.
    labels: Vec<u32>,
    places: Places,
}

/// Where its pictures are.
#[derive(Debug)]
pub(super) enum Places {
    Tar(Vec<Span>),
    /// Row by row, in these columns.
    #[cfg(feature = "parquet")]
    Parquet(ShardColumns),
}

/// What looking through a file tells.
pub(super) struct Indexed {
    pub(super) labels: FileLabels,
    pub(super) places: Places,
    pub(super) unpaired: UnpairedFiles,
}

impl Indexed {
    /// Indexes the file at `path`.
    pub(super) fn open(path: &Path, columns: &ShardColumns) -> Result<Self> {
        tracing::debug!("reading {}", path.display());
        if !is_tar(path) {
            return parquet(path, columns);
        }
        let index = tar_shard::index(path)?;
        Ok(Self {
            labels: FileLabels {
                path: path.to_owned(),
                labels: class_indices(path, &index.labels, MAX_CLASSES)?,
                classes: FileClasses::Numbers,
            },
            places: Places::Tar(index.spans),
            unpaired: index.unpaired,
        })
    }
}

impl Shard {
    /// A file with these labels, which are those of the data set's classes.
    pub(super) fn new(labels: FileLabels, places: Places) -> Self {
        Self {
            path: labels.path,
            labels: labels.labels,
            places,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> usize {
        self.labels.len()
    }

    /// Bytes in memory of what is known of its pictures.
    pub(crate) fn index_bytes(&self) -> usize {
        let places = match &self.places {
            Places::Tar(spans) => size_of_val(&spans[..]),
            #[cfg(feature = "parquet")]
            Places::Parquet(_) => 0,
        };
        places + size_of_val(&self.labels[..])
    }

    pub(crate) fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// What errors call a picture of it.
    pub(crate) fn origin(&self, row: usize) -> PathBuf {
        PathBuf::from(format!("{}, picture {row}", self.path.display()))
    }

    /// What these rows, which ascend, are called in the file: its members' names, or else the rows.
    ///
    /// # Errors
    /// When the file cannot be read, or has fewer.
    pub(crate) fn keys(&self, rows: &[usize]) -> Result<Vec<String>> {
        match &self.places {
            Places::Tar(_) => {
                let names = tar_shard::image_names(&self.path)?;
                let named = rows.iter().map(|&row| names.get(row).cloned());
                let named: Option<Vec<String>> = named.collect();
                named.ok_or_else(|| DataError::Shard {
                    path: self.path.clone(),
                    expected: format!("{} images, as before", self.len()),
                    found: names.len().to_string(),
                })
            }
            #[cfg(feature = "parquet")]
            Places::Parquet(_) => Ok(rows.iter().map(ToString::to_string).collect()),
        }
    }

    /// The encoded pictures of these rows, which ascend.
    pub(crate) fn read(&self, rows: &[usize]) -> Result<Vec<Vec<u8>>> {
        match &self.places {
            Places::Tar(spans) => {
                let spans = rows.iter().map(|&row| spans[row]);
                tar_shard::read(&self.path, spans)
            }
            #[cfg(feature = "parquet")]
            Places::Parquet(columns) => super::parquet_shard::read(&self.path, columns, rows),
        }
    }
}

/// Whether a file is a shard, by its name; compressed ones are, to be refused.
pub(crate) fn is_shard(path: &Path) -> bool {
    is_tar(path) || has_extension(path, "parquet") || compression::by_name(path).is_some()
}

fn is_tar(path: &Path) -> bool {
    has_extension(path, "tar")
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case(wanted))
}

#[cfg(feature = "parquet")]
fn parquet(path: &Path, columns: &ShardColumns) -> Result<Indexed> {
    Ok(Indexed {
        labels: super::parquet_shard::index(path, columns)?,
        places: Places::Parquet(columns.clone()),
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
