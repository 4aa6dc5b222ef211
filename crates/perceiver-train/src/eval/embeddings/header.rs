//! The header of a file of embeddings: the checkpoint, the features and their shape, and a checksum.

use std::path::Path;

use perceiver_data::hex;
use perceiver_model::Features;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Result, TrainError};
use crate::eval::embeddings::bytes_of;

/// The description of a file in errors.
pub(crate) const EXPECTED: &str = "embeddings as `perceiver embed` writes them";

/// The key of the header in the metadata of safetensors and Parquet files.
pub(crate) const KEY: &str = "perceiver_embeddings";

/// The version of the format.
const FORMAT: u32 = 1;

/// What embeddings are embeddings of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddingsHeader {
    /// The location of the checkpoint, as the user gave it.
    pub checkpoint: String,
    /// The fingerprint of the checkpoint: the hash of its weights, by
    /// [`Checkpoint::weights_sha256`](crate::Checkpoint::weights_sha256).
    pub weights_sha256: String,
    /// The features.
    pub features: Features,
    /// The shape of the embedding of an image: `[width]` or `[latents, width]`.
    pub shape: Vec<usize>,
}

/// An image in a file of embeddings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddedImage {
    /// The path, with invalid UTF-8 replaced.
    pub image: String,
    /// All bytes of the path, percent-encoded, if they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_percent_encoded: Option<String>,
}

impl EmbeddingsHeader {
    /// Returns the number of values of an image.
    pub fn width(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The header as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stored {
    format: u32,
    #[serde(flatten)]
    pub(crate) header: EmbeddingsHeader,
    /// The number of images.
    pub(crate) images: usize,
    /// The hash of everything, by [`Checksum`].
    sha256: String,
}

/// The hash of all values, `f32` little-endian, and of the header and the names as JSON.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checksum(Sha256);

impl Checksum {
    /// Adds the next values.
    pub(crate) fn update(&mut self, values: &[u8]) {
        self.0.update(values);
    }

    fn finish(
        mut self,
        header: &EmbeddingsHeader,
        images: &[EmbeddedImage],
    ) -> serde_json::Result<String> {
        self.0.update(serde_json::to_vec(&(header, images))?);
        Ok(hex(&self.0.finalize()))
    }
}

impl Stored {
    /// Creates the header of a file with these images, whose values `checksum` has seen.
    ///
    /// # Errors
    /// When JSON cannot represent the names.
    pub(crate) fn new(
        header: EmbeddingsHeader,
        images: &[EmbeddedImage],
        checksum: Checksum,
    ) -> serde_json::Result<Self> {
        Ok(Self {
            format: FORMAT,
            sha256: checksum.finish(&header, images)?,
            header,
            images: images.len(),
        })
    }

    /// Parses the header of the file at `path`.
    ///
    /// # Errors
    /// When there is none, it is invalid, or it is of a later version.
    pub(crate) fn parse(text: Option<&str>, path: &Path) -> Result<Self> {
        let Some(text) = text else {
            return Err(damaged(path, format!("no {KEY} in its metadata")));
        };
        let stored: Self =
            serde_json::from_str(text).map_err(|error| damaged(path, error.to_string()))?;
        stored.checked(path)
    }

    /// Checks version and shape.
    pub(crate) fn checked(self, path: &Path) -> Result<Self> {
        if self.format != FORMAT {
            let finding = format!("format {}, not {FORMAT}", self.format);
            return Err(damaged(path, finding));
        }
        let sizes = self.array_shape();
        let mut values = sizes.iter();
        let total = values.try_fold(4_usize, |total, &size| total.checked_mul(size));
        let dimensions = match self.header.features {
            Features::Pooled => 1,
            Features::Latents => 2,
        };
        if self.header.shape.len() == dimensions && total.is_some_and(|total| total > 0) {
            return Ok(self);
        }
        let (images, shape) = (self.images, &self.header.shape);
        Err(damaged(path, format!("{images} images of shape {shape:?}")))
    }

    /// Returns the shape of the array of all images.
    pub(crate) fn array_shape(&self) -> Vec<usize> {
        [&[self.images], self.header.shape.as_slice()].concat()
    }

    /// Checks that images and values are those that were written.
    ///
    /// # Errors
    /// When their number or their hash differs.
    pub(crate) fn require_match(
        &self,
        path: &Path,
        images: &[EmbeddedImage],
        values: &[f32],
    ) -> Result<()> {
        let expected = self.images * self.header.width();
        if images.len() != self.images || values.len() != expected {
            let (images, values) = (images.len(), values.len());
            return Err(TrainError::Damaged {
                path: path.to_path_buf(),
                expected: format!("{} names and {expected} values", self.images),
                finding: format!("{images} names and {values} values"),
            });
        }
        let mut checksum = Checksum::default();
        for values in values.chunks(1 << 16) {
            checksum.update(&bytes_of(values));
        }
        let found = checksum.finish(&self.header, images);
        let found = found.map_err(|error| damaged(path, error.to_string()))?;
        if found == self.sha256 {
            return Ok(());
        }
        Err(TrainError::Damaged {
            path: path.to_path_buf(),
            expected: format!("embeddings and names with sha256 {}", self.sha256),
            finding: format!("sha256 {found}"),
        })
    }
}

/// The error of a file at `path` that is not what [`EXPECTED`] says.
pub(crate) fn damaged(path: &Path, finding: String) -> TrainError {
    TrainError::Damaged {
        path: path.to_path_buf(),
        expected: EXPECTED.to_string(),
        finding,
    }
}
