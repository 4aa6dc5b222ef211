//! Embeddings of images: `perceiver embed` writes them to a file, and `perceiver similar` finds the
//! nearest images in one.

pub(crate) mod embed;
pub(crate) mod similar;

use std::path::Path;

use anyhow::{Result, anyhow};
use candle_core::Tensor;
use perceiver_data::Image;
use perceiver_model::Features;
use perceiver_train::{Checkpoint, EmbeddingFormat};

use crate::args::errors::usage_error;
use crate::args::image_batches::with_name;

/// Checks that a path has the extension of a format of embeddings. `flag` named it.
fn require_format(flag: &str, path: &Path) -> Result<()> {
    match EmbeddingFormat::of(path) {
        Some(_) => Ok(()),
        None => Err(usage_error(anyhow!(
            "{flag} {}: expected a name that ends in {}",
            path.display(),
            EmbeddingFormat::EXTENSIONS
        ))),
    }
}

/// Computes the features of a batch, `[images, ...]`, and returns its paths too.
fn features_of<'a>(
    checkpoint: &Checkpoint,
    features: Features,
    images: Vec<(&'a Path, Image)>,
) -> Result<(Vec<&'a Path>, Tensor)> {
    let (paths, images): (Vec<&Path>, Vec<Image>) = images.into_iter().unzip();
    let found = checkpoint.features(&images, features);
    let found = found.map_err(|error| with_name(error, &paths))?;
    Ok((paths, found))
}
