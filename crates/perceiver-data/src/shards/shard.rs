//! One file of many pictures: what is known of it without reading any, and pictures when they are asked for.

use std::path::{Path, PathBuf};

#[cfg(not(feature = "parquet"))]
use crate::error::DataError;
use crate::error::Result;
use crate::labels::{MAX_UNNAMED_CLASSES, class_indices};
use crate::shards::tar_shard::{self, Span};

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
enum Places {
    Tar(Vec<Span>),
    /// Row by row.
    #[cfg(feature = "parquet")]
    Parquet,
}

impl Shard {
    /// Indexes the file at `path`; and the classes' names, if it has them.
    pub(crate) fn open(path: &Path) -> Result<(Self, Option<Vec<String>>)> {
        tracing::debug!("reading {}", path.display());
        let (places, labels, names) = if is_tar(path) {
            let (spans, labels) = tar_shard::index(path)?;
            (Places::Tar(spans), labels, None)
        } else {
            parquet(path)?
        };
        let shard = Self {
            path: path.to_owned(),
            labels: class_indices(path, &labels, MAX_UNNAMED_CLASSES)?,
            places,
        };
        Ok((shard, names))
    }

    /// Makes sure that all labels are below `classes`.
    pub(crate) fn require_classes(&self, classes: usize) -> Result<()> {
        let labels = self.labels.iter().copied().map(i64::from);
        class_indices(&self.path, &labels.collect::<Vec<_>>(), classes)?;
        Ok(())
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
            Places::Parquet => 0,
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

    /// The encoded pictures of these rows, which ascend.
    pub(crate) fn read(&self, rows: &[usize]) -> Result<Vec<Vec<u8>>> {
        match &self.places {
            Places::Tar(spans) => {
                let spans = rows.iter().map(|&row| spans[row]);
                tar_shard::read(&self.path, spans)
            }
            #[cfg(feature = "parquet")]
            Places::Parquet => super::parquet_shard::read(&self.path, rows),
        }
    }
}

/// Whether a file is a shard, by its name.
pub(crate) fn is_shard(path: &Path) -> bool {
    is_tar(path) || has_extension(path, "parquet")
}

fn is_tar(path: &Path) -> bool {
    has_extension(path, "tar")
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case(wanted))
}

type Indexed = (Places, Vec<i64>, Option<Vec<String>>);

#[cfg(feature = "parquet")]
fn parquet(path: &Path) -> Result<Indexed> {
    let (labels, names) = super::parquet_shard::index(path)?;
    Ok((Places::Parquet, labels, names))
}

#[cfg(not(feature = "parquet"))]
fn parquet(path: &Path) -> Result<Indexed> {
    Err(DataError::NotBuiltIn {
        what: path.display().to_string(),
        feature: "parquet",
    })
}
