//! Pictures and labels from Parquet files, as the Hugging Face Hub stores image data sets.
//!
//! One row is one picture. Its column is the Hub's `Image` feature, a struct `{bytes: binary, path: string}` of which
//! `bytes` is an encoded PNG, JPEG, WebP or BMP file, or a plain binary column of such files; its label is an integer
//! column. Class names come from the metadata that the Hub's library leaves in the file (key `huggingface`); without
//! it the classes are numbers.
//!
//! Pictures are decoded by [`Image::decode`](crate::Image::decode), on all cores, and come out as they look: row by
//! row, `[3, height, width]`.

use std::path::{Path, PathBuf};

use crate::broken_pictures::{BrokenPictures, readable, require_every_class};
use crate::dataset::{Dataset, Groups};
use crate::error::{DataError, Result};
use crate::image::Image;
use crate::labels::{Labels, MAX_UNNAMED_CLASSES, class_indices, numbered};
use crate::parquet_file::{ParquetFile, contain_panics};
use crate::watcher::Watcher;

/// How to read Parquet files.
#[derive(Clone, Debug)]
pub struct ParquetOptions {
    /// Column of the pictures; guessed if not given: `img`, `image`, or the only column of pictures.
    pub image_column: Option<String>,
    /// Column of the labels; guessed if not given: `fine_label` or `coarse_label` by `labels`, else `label`,
    /// `labels`, or the only integer column.
    pub label_column: Option<String>,
    /// Which labels to read where a file has fine and coarse ones.
    pub labels: Labels,
    /// Class names for files that have none in their metadata; if not given either, the classes are called by their
    /// numbers, up to the largest label.
    pub classes: Option<Vec<String>>,
    /// Pictures whose shorter side is longer than this are shrunk to it while they are read.
    pub shorter_side: usize,
    /// Who is told how far decoding is, file by file.
    pub watcher: Watcher,
    /// What becomes of pictures that cannot be read.
    pub broken: BrokenPictures,
}

impl Default for ParquetOptions {
    fn default() -> Self {
        Self {
            image_column: None,
            label_column: None,
            labels: Labels::Fine,
            classes: None,
            shorter_side: usize::MAX,
            watcher: Watcher::default(),
            broken: BrokenPictures::Skip,
        }
    }
}

/// Reads `files`, in this order, as one data set called `name`.
///
/// # Errors
/// [`DataError::Parquet`] for a file that is not whole Parquet or has an empty cell, [`DataError::Column`] when a
/// column is missing or of the wrong type (the message lists those found), [`DataError::LabelOutOfRange`] with the file and
/// the row, and [`DataError::UnreadableClass`]; where broken pictures are refused, [`DataError::NotAnImage`] with the file
/// and the row.
pub fn read_parquet(name: &str, files: &[PathBuf], options: &ParquetOptions) -> Result<Dataset> {
    let mut table = Table::default();
    for path in files {
        contain_panics(path, || table.append(path, options))?;
    }
    table.into_dataset(name, options)
}

/// The class names in the metadata of the first of `files`, if it has some.
#[cfg(any(feature = "hub", test))]
pub(crate) fn named_classes(
    files: &[PathBuf],
    options: &ParquetOptions,
) -> Result<Option<Vec<String>>> {
    let Some(path) = files.first() else {
        return Ok(None);
    };
    contain_panics(path, || {
        Ok(ParquetFile::open(path, options)?.columns.label.names)
    })
}

/// The class names in the metadata of `files`, or else the numbers up to the largest label.
#[cfg(any(feature = "hub", test))]
pub(crate) fn numbered_classes(files: &[PathBuf], options: &ParquetOptions) -> Result<Vec<String>> {
    if let Some(names) = named_classes(files, options)? {
        return Ok(names);
    }
    let mut count = 0;
    for path in files {
        let labels = contain_panics(path, || {
            tracing::debug!("reading {}", path.display());
            let file = ParquetFile::open(path, options)?;
            class_indices(
                path,
                &file.integers(&file.columns.label)?,
                MAX_UNNAMED_CLASSES,
            )
        })?;
        count = labels
            .into_iter()
            .map(|label| label + 1)
            .fold(count, u32::max);
    }
    Ok(numbered(count))
}

/// What has been read so far.
#[derive(Default)]
struct Table {
    /// What came of every row's picture.
    pictures: Vec<Result<Image>>,
    labels: Vec<u32>,
    names: Option<Vec<String>>,
    /// Coarse label of every row, and the coarse names, where there are fine labels beside them.
    groups: Option<(Vec<u32>, Vec<String>)>,
}

impl Table {
    fn append(&mut self, path: &Path, options: &ParquetOptions) -> Result<()> {
        let file = ParquetFile::open(path, options)?;
        let names = file
            .columns
            .label
            .names
            .clone()
            .or_else(|| options.classes.clone());
        let classes = names.as_ref().map_or(MAX_UNNAMED_CLASSES, Vec::len);
        let labels = class_indices(path, &file.integers(&file.columns.label)?, classes)?;
        let pictures = file.pictures(options.shorter_side, options.broken, &options.watcher)?;
        if pictures.len() != labels.len() {
            return Err(file.finding(format!(
                "{} pictures and {} labels",
                pictures.len(),
                labels.len()
            )));
        }
        if let Some(coarse) = &file.columns.coarse
            && let Some(names) = &coarse.names
        {
            let values = class_indices(path, &file.integers(coarse)?, names.len())?;
            self.groups
                .get_or_insert_with(|| (Vec::new(), names.clone()))
                .0
                .extend(values);
        }
        if self.names.is_some() && self.names != names {
            return Err(DataError::Inconsistent {
                name: path.display().to_string(),
                expected: "the class names of the files before it".into(),
                found: format!("{} other names", names.map_or(0, |names| names.len())),
            });
        }
        self.names = names;
        self.pictures.extend(pictures);
        self.labels.extend(labels);
        Ok(())
    }

    fn into_dataset(self, name: &str, options: &ParquetOptions) -> Result<Dataset> {
        let unnamed = || numbered(self.labels.iter().max().map_or(0, |&largest| largest + 1));
        let classes = self
            .names
            .or_else(|| options.classes.clone())
            .unwrap_or_else(unnamed);
        let groups = match self.groups {
            Some((coarse, names)) => groups(name, &self.labels, &coarse, names, classes.len())?,
            None => None,
        };
        let labelled = self.pictures.into_iter().zip(self.labels.iter().copied());
        let (images, labels) = readable(name, labelled)?;
        require_every_class(name, &self.labels, &labels, &classes)?;
        let dataset = Dataset::new(name, images, labels, classes)?;
        match groups {
            Some(groups) => dataset.with_groups(groups),
            None => Ok(dataset),
        }
    }
}

/// The group of every class, from rows that have both; `None` when a class has no row to tell its group.
fn groups(
    name: &str,
    fine: &[u32],
    coarse: &[u32],
    names: Vec<String>,
    classes: usize,
) -> Result<Option<Groups>> {
    let mut of_class = vec![None; classes];
    for (&class, &group) in fine.iter().zip(coarse) {
        let Some(seen) = of_class.get_mut(class as usize) else {
            continue; // refused by `Dataset::new`, which says more about it
        };
        let first = *seen.get_or_insert(group);
        if first != group {
            return Err(DataError::Inconsistent {
                name: name.to_owned(),
                expected: format!("class {class} in one coarse group, {first}"),
                found: format!("it in group {group} too"),
            });
        }
    }
    let of_class: Option<Vec<u32>> = of_class.into_iter().collect();
    Ok(of_class.map(|of_class| Groups { names, of_class }))
}

#[cfg(test)]
#[path = "parquet_tests.rs"]
mod tests;
