//! Parquet files of embeddings: a row per image, and the checkpoint in the key-value metadata.

use std::path::Path;

use perceiver_data::{VectorName, read_named_vectors};

use crate::error::Result;
use crate::eval::embeddings::header::{EmbeddedImage, KEY, Stored};

/// Reads the file at `path`.
///
/// # Errors
/// When it is missing, no Parquet file, or without embeddings.
pub(crate) fn read(path: &Path) -> Result<(Stored, Vec<EmbeddedImage>, Vec<f32>)> {
    let file = read_named_vectors(path, KEY)?;
    let stored = Stored::parse(file.metadata.as_deref(), path)?;
    let names = file.names.into_iter();
    let images = names.map(|(image, image_percent_encoded)| EmbeddedImage {
        image,
        image_percent_encoded,
    });
    Ok((stored, images.collect(), file.values))
}

/// Returns the names of images as columns.
pub(crate) fn names(images: &[EmbeddedImage]) -> Vec<VectorName> {
    let images = images.iter().cloned();
    images
        .map(|image| (image.image, image.image_percent_encoded))
        .collect()
}
