//! A trained model on the disk: weights, and all that prediction needs beside them.
//!
//! `model.safetensors` holds the weights by name, and a checksum; `config.json` the architecture, the preprocessing with its
//! normalization, the class names, and what data the model saw. The two together suffice, on any machine.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use perceiver_data::Image;
use perceiver_model::{ModelError, Parameters, Perceiver};
use perceiver_ops::softmax;
use rayon::prelude::*;

use crate::checked_file::{self, Checksum};
use crate::checkpoint_config::CheckpointConfig;
use crate::error::{Result, TrainError};
use crate::precision::Precision;
use crate::scores::require_finite_scores;
use crate::views::Views;

/// Reads the `model.safetensors` that belongs to a configuration.
fn read_weights(config: &CheckpointConfig, path: &Path, device: &Device) -> Result<Parameters> {
    let (expected, checksum) = if config.is_of_another_program() {
        ("a safetensors file of weights", Checksum::Optional)
    } else {
        (
            "weights as a config.json of this format has them",
            Checksum::Required,
        )
    };
    let content = checked_file::read(path, expected, checksum);
    let tensors = content.map_err(|error| in_shards(error, path))?.tensors;
    Parameters::from_loaded_tensors(&config.model, tensors, device).map_err(|error| {
        let path = path.to_path_buf();
        let source = Box::new(error);
        ModelError::InFile { path, source }.into()
    })
}

/// Why there are no weights at `path`, where others lie beside it that other programs read.
fn in_shards(error: TrainError, path: &Path) -> TrainError {
    let index = path.with_file_name("model.safetensors.index.json");
    if path.exists() || !index.exists() {
        return error;
    }
    TrainError::Damaged {
        path: path.to_path_buf(),
        expected: "all weights in this one file".to_string(),
        finding: format!(
            "none, but weights in several files ({}); join them into one first",
            index.display()
        ),
    }
}

/// Writes a `model.safetensors`, replacing an old one at once or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn write_weights<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    path: &Path,
) -> Result<()> {
    let tensors = tensors.into_iter();
    let named = tensors.map(|(name, tensor)| (name.to_string(), tensor.clone()));
    checked_file::write(path, HashMap::new(), named)
}

/// A trained model, ready to classify pictures.
#[derive(Debug)]
pub struct Checkpoint {
    /// What `config.json` says.
    pub config: CheckpointConfig,
    /// The model on its weights, for inference alone.
    pub model: Perceiver,
    pub(crate) parameters: Parameters,
    device: Device,
}

impl Checkpoint {
    /// The files that make a checkpoint.
    pub const FILES: [&'static str; 2] = ["config.json", "model.safetensors"];

    /// Reads `config.json` and `model.safetensors` from a directory.
    ///
    /// # Errors
    /// When either is missing, damaged, or they do not fit each other.
    pub fn open(directory: &Path, device: &Device) -> Result<Self> {
        let config = CheckpointConfig::read(&directory.join("config.json"))?;
        let weights = directory.join("model.safetensors");
        let parameters = read_weights(&config, &weights, device)?;
        let model = parameters.inference_model(&config.model)?;
        Ok(Self {
            config,
            model,
            parameters,
            device: device.clone(),
        })
    }

    /// The same checkpoint, which computes in a precision other than `f32`. Class scores are `f32` all the same.
    ///
    /// # Errors
    /// When the device does not have it.
    pub fn in_precision(mut self, precision: Precision) -> Result<Self> {
        precision.set_up(&self.device)?;
        let dtype = precision.dtype();
        if dtype == self.model.dtype() {
            return Ok(self);
        }
        self.model = self
            .parameters
            .inference_model_in(&self.config.model, dtype)?;
        Ok(self)
    }

    /// The device the model is on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What the model is shown of pictures of any size, `[pictures, 3, side, side]`: they are shrunk first, as training shrinks
    /// those of folders and of the Hub.
    ///
    /// # Errors
    /// When candle refuses an operation.
    pub fn input(&self, images: &[Image]) -> Result<Tensor> {
        let side = self.config.shorter_side();
        let shrunk: Vec<Image> = images
            .par_iter()
            .map(|image| image.clone().shrunk_to(side))
            .collect();
        let input = self.config.preprocessing.tensor(&shrunk)?;
        Ok(input.to_device(&self.device)?)
    }

    /// The probability of every class for every picture, `[pictures][classes]`.
    ///
    /// # Errors
    /// [`TrainError::ScoreNotFinite`] when what the model says of a picture is no number, and when candle refuses an operation.
    pub fn classify(&self, images: &[Image]) -> Result<Vec<Vec<f32>>> {
        self.classify_by(Views::Picture, images)
    }

    /// [`Checkpoint::classify`] by more than the pictures alone.
    ///
    /// # Errors
    /// As for [`Checkpoint::classify`].
    pub fn classify_by(&self, views: Views, images: &[Image]) -> Result<Vec<Vec<f32>>> {
        let scores = views.scores(&self.model, &self.input(images)?)?;
        let probabilities = softmax(&scores)?.to_device(&Device::Cpu)?;
        require_finite_scores(&scores.to_device(&Device::Cpu)?, 0)?;
        Ok(probabilities.to_vec2()?)
    }
}
