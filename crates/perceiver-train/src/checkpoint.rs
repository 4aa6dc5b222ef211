//! Checkpoints: trained weights and everything else that prediction needs.
//!
//! `model.safetensors` holds the weights by name, and a checksum. `config.json` holds the
//! architecture, the preprocessing with its normalization, the class names, and a description of
//! the training data. The two files suffice for inference on any machine.

pub(crate) mod config;
#[cfg(feature = "hub")]
pub(crate) mod from_pretrained;
pub(crate) mod preprocessor_config;
pub(crate) mod transformers;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor};
use perceiver_data::Image;
use perceiver_model::read_weights as read_any_weights;
use perceiver_model::{Classifier, Features, ModelConfig, ModelError, Parameters};
use perceiver_ops::{first_not_finite, softmax};
use rayon::prelude::*;

use crate::checkpoint::config::CheckpointConfig;
use crate::error::{Result, TrainError};
use crate::eval::batch_size;
use crate::eval::finite_logits::require_finite_scores;
use crate::eval::test_time_augmentation::TestTimeAugmentation;
use crate::recipe::precision::Precision;
use crate::run::checksummed_file::{self, Checksum};

/// Reads the `model.safetensors` that belongs to a configuration.
fn read_weights(config: &CheckpointConfig, path: &Path, device: &Device) -> Result<Parameters> {
    let (expected, checksum) = if config.is_of_another_program() {
        ("a safetensors file with weights", Checksum::Optional)
    } else {
        (
            "weights in the format that config.json declares",
            Checksum::Required,
        )
    };
    let content = checksummed_file::read(path, expected, checksum);
    let tensors = content.map_err(|error| in_shards(error, path))?.tensors;
    parameters(&config.model, tensors, path, device)
}

/// Creates the parameters of a model from the tensors of the file at `path`.
fn parameters(
    model: &ModelConfig,
    tensors: HashMap<String, Tensor>,
    path: &Path,
    device: &Device,
) -> Result<Parameters> {
    Parameters::from_loaded_tensors(model, tensors, device).map_err(|error| match error {
        error @ ModelError::Config { .. } => error.into(),
        error => {
            let path = path.to_path_buf();
            let source = Box::new(error);
            ModelError::InFile { path, source }.into()
        }
    })
}

/// Explains missing weights at `path` if sharded weights, which other programs read, lie beside it.
fn in_shards(error: TrainError, path: &Path) -> TrainError {
    let index = path.with_file_name("model.safetensors.index.json");
    if path.exists() || !index.exists() {
        return error;
    }
    TrainError::Damaged {
        path: path.to_path_buf(),
        expected: "all weights in this file".to_string(),
        finding: format!(
            "no such file, but sharded weights ({}); merge them into one file first",
            index.display()
        ),
    }
}

/// Writes a `model.safetensors`, atomically replacing an old one.
///
/// # Errors
/// When the file cannot be written.
pub fn write_weights<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    path: &Path,
) -> Result<()> {
    let tensors = tensors.into_iter();
    let named = tensors.map(|(name, tensor)| (name.to_string(), tensor.clone()));
    checksummed_file::write(path, HashMap::new(), named)
}

/// Writes the `model.safetensors` of a model.
pub(crate) fn write_model(
    model: &ModelConfig,
    weights: &HashMap<String, Tensor>,
    path: &Path,
) -> Result<()> {
    let (metadata, tensors) = content(model, weights.clone())?;
    checksummed_file::write(path, metadata, tensors)
}

/// Returns the metadata, apart from the checksum, and the tensors of a model's `model.safetensors`.
///
/// transformers reads no weights that do not name their format, and misses a count that the model
/// has no use for.
pub(crate) fn content(
    model: &ModelConfig,
    weights: HashMap<String, Tensor>,
) -> Result<(HashMap<String, String>, BTreeMap<String, Tensor>)> {
    let (mut metadata, mut tensors) = (HashMap::new(), BTreeMap::from_iter(weights));
    if let Some(model) = model.perceiver_io() {
        metadata.insert("format".to_string(), "pt".to_string());
        if let Some(count) = model.batch_count() {
            tensors.insert(count.to_string(), Tensor::new(0_i64, &Device::Cpu)?);
        }
    }
    Ok((metadata, tensors))
}

/// A trained model for inference.
#[derive(Debug)]
pub struct Checkpoint {
    /// The content of `config.json`.
    pub config: CheckpointConfig,
    /// The model with its weights, for inference only.
    pub model: Box<dyn Classifier>,
    pub(crate) parameters: Parameters,
    device: Device,
}

impl Checkpoint {
    /// Reads `config.json` and `model.safetensors` from a directory.
    ///
    /// # Errors
    /// When either is missing or damaged, or they do not match.
    pub fn open(directory: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let directory = directory.as_ref();
        let config = CheckpointConfig::read(directory.join("config.json"))?;
        Self::open_with(config, directory, device)
    }

    /// Reads the weights of a directory for a model with this configuration: one of the program's
    /// own, whose code `config.json` does not have, after `config.model` was set to it.
    ///
    /// # Errors
    /// As for [`Checkpoint::open`].
    pub fn open_with(
        mut config: CheckpointConfig,
        directory: impl AsRef<Path>,
        device: &Device,
    ) -> Result<Self> {
        let directory = directory.as_ref();
        let parameters = if config.is_of_another_program() && config.model.perceiver_io().is_some()
        {
            let file = read_any_weights(directory)?;
            tracing::info!("weights of {}", file.path.display());
            transformers::set_input(&mut config, &file.tensors);
            parameters(&config.model, file.tensors, &file.path, device)?
        } else {
            read_weights(&config, &directory.join("model.safetensors"), device)?
        };
        let model = parameters.inference_model(&config.model)?;
        Ok(Self {
            config,
            model,
            parameters,
            device: device.clone(),
        })
    }

    /// Returns this checkpoint with another compute precision than `f32`. Logits are `f32` all the
    /// same.
    ///
    /// # Errors
    /// When the device does not support it.
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

    /// Returns the weights by name.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Returns the device of the model.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Preprocesses images of any size to the model's input, `[images, 3, side, side]`. Images are
    /// downscaled first, as in training on folders and on data sets of the Hub.
    ///
    /// # Errors
    /// When candle refuses an operation.
    pub fn input(&self, images: &[Image]) -> Result<Tensor> {
        Ok(self.input_on_cpu(images)?.to_device(&self.device)?)
    }

    /// [`Checkpoint::input`] in the memory of the CPU.
    ///
    /// # Errors
    /// As for [`Checkpoint::input`].
    pub fn input_on_cpu(&self, images: &[Image]) -> Result<Tensor> {
        let side = self.config.shorter_side();
        let is_larger = |image: &Image| image.height().min(image.width()) > side;
        if !images.iter().any(is_larger) {
            return Ok(self.config.preprocessing.tensor(images)?);
        }
        let shrunk: Vec<Image> = images
            .par_iter()
            .map(|image| image.clone().shrunk_to(side))
            .collect();
        Ok(self.config.preprocessing.tensor(&shrunk)?)
    }

    /// Computes the features of images, `f32` `[images, width]` or `[images, latents, width]`, on the
    /// CPU: embeddings, with which similar images are found. The images are preprocessed as for
    /// [`Checkpoint::classify`].
    ///
    /// # Errors
    /// [`TrainError::FeatureNotFinite`] when the features of an image are not finite, when there are
    /// no images, and when candle refuses an operation.
    pub fn features(&self, images: &[Image], features: Features) -> Result<Tensor> {
        let mut all = Vec::new();
        for batch in images.chunks(batch_size(&*self.model)) {
            let found = self.model.features(&self.input(batch)?, features)?;
            all.push(found.to_device(&Device::Cpu)?);
        }
        let all = Tensor::cat(&all, 0)?;
        match first_not_finite(&all)? {
            None => Ok(all),
            Some((at, value)) => Err(TrainError::FeatureNotFinite {
                image: at / (all.elem_count() / images.len()),
                value,
            }),
        }
    }

    /// Returns the probability of every class for every image, `[images][classes]`.
    ///
    /// # Errors
    /// [`TrainError::ScoreNotFinite`] when the logits of an image are not finite, and when candle
    /// refuses an operation.
    pub fn classify(&self, images: &[Image]) -> Result<Vec<Vec<f32>>> {
        self.classify_by(TestTimeAugmentation::None, images)
    }

    /// [`Checkpoint::classify`] with test-time augmentation.
    ///
    /// # Errors
    /// As for [`Checkpoint::classify`].
    pub fn classify_by(
        &self,
        views: TestTimeAugmentation,
        images: &[Image],
    ) -> Result<Vec<Vec<f32>>> {
        let mut all = Vec::with_capacity(images.len());
        for batch in images.chunks(self.batch_size()) {
            all.extend(self.classify_batch(views, &self.input(batch)?, all.len())?);
        }
        Ok(all)
    }

    /// [`Checkpoint::classify_by`] of preprocessed images, `[images, 3, side, side]` on any device.
    ///
    /// # Errors
    /// As for [`Checkpoint::classify`].
    pub fn classify_input(
        &self,
        views: TestTimeAugmentation,
        input: &Tensor,
    ) -> Result<Vec<Vec<f32>>> {
        let images = input.dim(0)?;
        let mut all = Vec::with_capacity(images);
        while all.len() < images {
            let first = all.len();
            let batch = input.narrow(0, first, self.batch_size().min(images - first))?;
            all.extend(self.classify_batch(views, &batch.to_device(&self.device)?, first)?);
        }
        Ok(all)
    }

    /// Returns the largest number of images that are classified at once: a power of two that depends
    /// on the model alone.
    pub fn batch_size(&self) -> usize {
        batch_size(&*self.model)
    }

    /// Classifies a batch on the model's device; `first` is the index of its first image in errors.
    fn classify_batch(
        &self,
        views: TestTimeAugmentation,
        input: &Tensor,
        first: usize,
    ) -> Result<Vec<Vec<f32>>> {
        let scores = views.scores(&*self.model, input)?;
        let probabilities = softmax(&scores)?.to_device(&Device::Cpu)?;
        require_finite_scores(&scores.to_device(&Device::Cpu)?, first)?;
        Ok(probabilities.to_vec2()?)
    }
}
