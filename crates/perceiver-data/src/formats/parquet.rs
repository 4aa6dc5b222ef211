//! Parquet data sets in the layout of the Hugging Face Hub.
//!
//! One row is one image. The image column is the Hub's `Image` feature, a struct
//! `{bytes: binary, path: string}` with an encoded image file in `bytes`, or a plain binary column
//! of such files. The label column has integers, or texts, whose sorted distinct values are the
//! classes. Names of integer labels come from the metadata of the Hub's library in the file (key
//! `huggingface`); without it the class names are numbers. A row without an image is a broken
//! image.
//!
//! Images are decoded with [`Image::decode`](crate::Image::decode), on all cores, to
//! `[3, height, width]`.

#[cfg(feature = "parquet")]
pub(crate) mod columns;
#[cfg(feature = "parquet")]
pub(crate) mod decompress;
#[cfg(feature = "parquet")]
pub(crate) mod delta;
#[cfg(feature = "parquet")]
pub(crate) mod file;
#[cfg(feature = "parquet")]
pub(crate) mod footer;
#[cfg(all(test, feature = "parquet"))]
pub(crate) mod hostile_tests;
#[cfg(feature = "parquet")]
pub(crate) mod named_vectors;
#[cfg(feature = "parquet")]
pub(crate) mod page_header;
#[cfg(feature = "parquet")]
pub(crate) mod pages;
#[cfg(feature = "parquet")]
pub(crate) mod thrift;
#[cfg(feature = "parquet")]
pub(crate) mod writer;

use std::path::{Path, PathBuf};

use crate::dataset::image::Image;
use crate::dataset::image_names::{name_in_shard, name_of_file};
use crate::dataset::labels::{Labels, class_indices};
use crate::dataset::{Dataset, Groups};
use crate::error::{DataError, Result};
use crate::formats::broken_images::{BrokenImages, readable, require_every_class};
use crate::formats::file_labels::{FileClasses, FileLabels, join};
use crate::formats::parquet::file::{ParquetFile, contain_panics};
use crate::progress::ProgressCallback;

/// Options for reading Parquet files.
#[derive(Clone, Debug)]
pub struct ParquetOptions {
    /// The image column; by default `img`, `image`, or the only column of images.
    pub image_column: Option<String>,
    /// The label column; by default `fine_label` or `coarse_label` according to `labels`, otherwise
    /// `label`, `labels`, the only column with class names in the metadata, `class`, `class_label`,
    /// `class_name`, `target`, `targets`, `category` or `y`.
    pub label_column: Option<String>,
    /// The labels to read if a file has fine and coarse ones.
    pub labels: Labels,
    /// The class names for files without names in their metadata. By default the classes are the
    /// distinct texts, or the numbers up to the largest label.
    pub classes: Option<Vec<String>>,
    /// The shorter side in pixels that larger images are downscaled to.
    pub shorter_side: usize,
    /// The callback for decoding progress, per file.
    pub watcher: ProgressCallback,
    /// The handling of unreadable images.
    pub broken: BrokenImages,
}

impl Default for ParquetOptions {
    fn default() -> Self {
        Self {
            image_column: None,
            label_column: None,
            labels: Labels::Fine,
            classes: None,
            shorter_side: usize::MAX,
            watcher: ProgressCallback::default(),
            broken: BrokenImages::Skip,
        }
    }
}

/// Reads `files`, in this order, as one data set called `name`.
///
/// # Errors
/// [`DataError::Parquet`] for a file that is not complete Parquet or has a row without a label,
/// [`DataError::Column`] when a column is missing or of the wrong type (the message lists those
/// found), [`DataError::LabelOutOfRange`] with the file and the row, [`DataError::OtherClasses`]
/// for a label whose class the previous files do not list, [`DataError::Shard`] for a class that is
/// listed twice, and [`DataError::UnreadableClass`]; if broken images are refused,
/// [`DataError::NotAnImage`] with the file and the row.
pub fn read_parquet(name: &str, files: &[PathBuf], options: &ParquetOptions) -> Result<Dataset> {
    let mut table = Table::default();
    for path in files {
        contain_panics(path, || table.append(path, options))?;
    }
    table.into_dataset(name, options)
}

/// Reads the labels of all rows of `files`, and their classes: those listed in the metadata, or the
/// distinct texts, or the numbers up to the largest label. Reads no image.
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

/// The rows read so far.
#[derive(Default)]
struct Table {
    /// The image of every row, or its error.
    images: Vec<Result<Image>>,
    labels: Vec<FileLabels>,
    /// The file and row number of every row.
    image_names: Vec<String>,
    /// The coarse label of every row, and the coarse names, if there are fine labels too.
    groups: Option<(Vec<u32>, Vec<String>)>,
}

impl Table {
    fn append(&mut self, path: &Path, options: &ParquetOptions) -> Result<()> {
        let file = ParquetFile::open(path, options)?;
        let labels = file.labels()?;
        let images = file.images(options.shorter_side, options.broken, &options.watcher)?;
        if images.len() != labels.labels.len() {
            return Err(file.finding(format!(
                "{} images and {} labels",
                images.len(),
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
        self.image_names
            .extend((0..images.len()).map(|row| name_in_shard(&file, row)));
        self.images.extend(images);
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
        let rows = all.iter().copied().zip(self.image_names);
        let (images, rows) = readable(name, self.images.into_iter().zip(rows))?;
        let (labels, image_names): (Vec<u32>, Vec<String>) = rows.into_iter().unzip();
        require_every_class(name, &all, &labels, &classes)?;
        let dataset = Dataset::new(name, images, labels, classes)?.with_image_names(image_names)?;
        match groups {
            Some(groups) => dataset.with_groups(groups),
            None => Ok(dataset),
        }
    }
}

/// Returns the group of every class, from rows with both labels; `None` if a class has no row.
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
            continue; // rejected by `Dataset::new` with a better message
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
mod tests;
