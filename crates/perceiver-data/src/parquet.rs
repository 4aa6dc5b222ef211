//! Pictures and labels from Parquet files, as the Hugging Face Hub stores image data sets.
//!
//! One row is one picture. Its column is the Hub's `Image` feature, a struct `{bytes: binary, path: string}` of which
//! `bytes` is an encoded image file, or a plain binary column of such files; its label is a column of integers
//! or of texts, which are the classes then, sorted. Names of integers come from the metadata that the Hub's library leaves in
//! the file (key `huggingface`); without it the classes are numbers. A row without an image is a broken image.
//!
//! Pictures are decoded by [`Image::decode`](crate::Image::decode), on all cores, and come out as they look: row by
//! row, `[3, height, width]`.

use std::path::{Path, PathBuf};

use crate::broken_pictures::{BrokenPictures, readable, require_every_class};
use crate::dataset::{Dataset, Groups};
use crate::error::{DataError, Result};
use crate::file_labels::{FileClasses, FileLabels, join};
use crate::image::Image;
use crate::image_names::{name_in_shard, name_of_file};
use crate::labels::{Labels, class_indices};
use crate::parquet_file::{ParquetFile, contain_panics};
use crate::watcher::Watcher;

/// How to read Parquet files.
#[derive(Clone, Debug)]
pub struct ParquetOptions {
    /// Column of the pictures; guessed if not given: `img`, `image`, or the only column of pictures.
    pub image_column: Option<String>,
    /// Column of the labels; if not given, `fine_label` or `coarse_label` by `labels`, else `label`, `labels`, the only one
    /// of which the metadata names the classes, `class`, `class_label`, `class_name`, `target`, `targets`, `category` or `y`.
    pub label_column: Option<String>,
    /// Which labels to read where a file has fine and coarse ones.
    pub labels: Labels,
    /// Class names for files that have none in their metadata; if not given either, the classes are the texts that labels are,
    /// or are called by their numbers, up to the largest label.
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
/// [`DataError::Parquet`] for a file that is not whole Parquet or has a row without a label, [`DataError::Column`] when a
/// column is missing or of the wrong type (the message lists those found), [`DataError::LabelOutOfRange`] with the file and
/// the row, [`DataError::OtherClasses`] for a label whose class the files before do not list, [`DataError::Shard`] for a class
/// that is listed twice, and [`DataError::UnreadableClass`]; where broken pictures are refused, [`DataError::NotAnImage`] with
/// the file and the row.
pub fn read_parquet(name: &str, files: &[PathBuf], options: &ParquetOptions) -> Result<Dataset> {
    let mut table = Table::default();
    for path in files {
        contain_panics(path, || table.append(path, options))?;
    }
    table.into_dataset(name, options)
}

/// The labels of all rows of `files`, and their classes: those listed in the metadata, or the texts that the labels are, or the
/// numbers up to the largest label. Reads no image.
///
/// # Errors
/// As for [`read_parquet`].
#[cfg(any(feature = "hub", test))]
pub(crate) fn read_labels(
    files: &[PathBuf],
    options: &ParquetOptions,
) -> Result<(Vec<u32>, Vec<String>)> {
    let labels = |path: &PathBuf| {
        tracing::debug!("reading {}", path.display());
        contain_panics(path, || ParquetFile::open(path, options)?.labels())
    };
    let mut files: Vec<FileLabels> = files.iter().map(labels).collect::<Result<_>>()?;
    let classes = join(&mut files, None)?;
    let labels = files.into_iter().flat_map(|file| file.labels);
    Ok((labels.collect(), classes))
}

/// Whether the metadata of the first of `files` lists the classes.
#[cfg(any(feature = "hub", test))]
pub(crate) fn lists_classes(files: &[PathBuf], options: &ParquetOptions) -> Result<bool> {
    let Some(path) = files.first() else {
        return Ok(false);
    };
    contain_panics(path, || {
        let file = ParquetFile::open(path, options)?;
        Ok(file.columns.label.names.is_some())
    })
}

/// What has been read so far.
#[derive(Default)]
struct Table {
    /// What came of every row's picture.
    pictures: Vec<Result<Image>>,
    labels: Vec<FileLabels>,
    /// Every row's file and place in it.
    places: Vec<String>,
    /// Coarse label of every row, and the coarse names, where there are fine labels beside them.
    groups: Option<(Vec<u32>, Vec<String>)>,
}

impl Table {
    fn append(&mut self, path: &Path, options: &ParquetOptions) -> Result<()> {
        let file = ParquetFile::open(path, options)?;
        let labels = file.labels()?;
        let pictures = file.pictures(options.shorter_side, options.broken, &options.watcher)?;
        if pictures.len() != labels.labels.len() {
            return Err(file.finding(format!(
                "{} pictures and {} labels",
                pictures.len(),
                labels.labels.len()
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
        let file = name_of_file(path.parent().unwrap_or(path), path);
        self.places
            .extend((0..pictures.len()).map(|row| name_in_shard(&file, row)));
        self.pictures.extend(pictures);
        self.labels.push(labels);
        Ok(())
    }

    fn into_dataset(mut self, name: &str, options: &ParquetOptions) -> Result<Dataset> {
        let given = options.classes.as_deref();
        let lists = |file: &FileLabels| matches!(file.classes, FileClasses::Listed(_));
        let given = given.filter(|_| !self.labels.iter().all(lists));
        let classes = join(&mut self.labels, given)?;
        let all: Vec<u32> = self.labels.into_iter().flat_map(|f| f.labels).collect();
        let groups = match self.groups {
            Some((coarse, names)) => groups(name, &all, &coarse, names, classes.len())?,
            None => None,
        };
        let told = all.iter().copied().zip(self.places);
        let (images, told) = readable(name, self.pictures.into_iter().zip(told))?;
        let (labels, places): (Vec<u32>, Vec<String>) = told.into_iter().unzip();
        require_every_class(name, &all, &labels, &classes)?;
        let dataset = Dataset::new(name, images, labels, classes)?.with_image_names(places)?;
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
