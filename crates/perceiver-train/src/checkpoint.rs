//! A trained model on the disk: weights, and all that prediction needs beside them.
//!
//! `model.safetensors` holds the weights by name, and a checksum; `config.json` the architecture, the preprocessing with its
//! normalization, the class names, and what data the model saw. The two together suffice, on any machine.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use perceiver_data::{Image, Labels, Preprocessing, Source};
use perceiver_model::{ModelError, Parameters, Perceiver, PerceiverConfig};
use perceiver_ops::softmax;
use serde::{Deserialize, Serialize};

use crate::checked_file::{self, Checksum};
use crate::error::{Result, TrainError};
use crate::json_file;
use crate::views::Views;

/// The name in every `config.json`, by which ours are known.
const MODEL_TYPE: &str = "perceiver-image-classification";

/// The layout of `config.json` and `model.safetensors`: in this one, the weights have a checksum.
const FORMAT: u32 = 2;

/// The same without a checksum, for weights that other programs write.
const FORMAT_WITHOUT_CHECKSUM: u32 = 1;

/// What a `config.json` is, in errors.
const EXPECTED: &str = "the config.json of a Perceiver checkpoint";

/// What `config.json` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointConfig {
    model_type: String,
    format: u32,
    /// The architecture.
    pub model: PerceiverConfig,
    /// How a picture becomes input.
    pub preprocessing: Preprocessing,
    /// The class that each logit stands for.
    pub classes: Vec<String>,
    /// What the model was trained on.
    pub data: DataCard,
}

/// What a model was trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataCard {
    /// The data set, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<Source>,
    /// Its labels.
    pub labels: Labels,
    /// The number of training pictures, validation included; 0 where unknown.
    pub train_images: usize,
    /// The training pictures' and labels' hash, by [`perceiver_data::Dataset::sha256`]; empty where unknown.
    pub train_sha256: String,
    /// The seed of the run, which also decides how a folder without a test part is divided.
    #[serde(default)]
    pub seed: u64,
    /// Only the first so many test pictures are evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_test: Option<usize>,
    /// Whether its verdict is the mean of pictures and their mirror images.
    #[serde(default)]
    pub flip_average: bool,
}

impl CheckpointConfig {
    /// The configuration of a new checkpoint.
    pub fn new(
        model: PerceiverConfig,
        preprocessing: Preprocessing,
        classes: Vec<String>,
        data: DataCard,
    ) -> Self {
        Self {
            model_type: MODEL_TYPE.to_string(),
            format: FORMAT,
            model,
            preprocessing,
            classes,
            data,
        }
    }

    /// What the pictures of folders were shrunk to on the way in, to a shorter side of so many pixels: twice what the model
    /// sees. Whoever shows the model a picture of any size shrinks it so first.
    pub fn shorter_side(&self) -> usize {
        2 * self.model.image_size
    }

    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// When it is not there, not ours, or its parts disagree.
    pub fn read(path: &Path) -> Result<Self> {
        let config: Self = json_file::read(path, EXPECTED)?;
        let damaged = |finding: String| TrainError::Damaged {
            path: path.to_path_buf(),
            expected: EXPECTED.to_string(),
            finding,
        };
        let known = [FORMAT_WITHOUT_CHECKSUM, FORMAT].contains(&config.format);
        if config.model_type != MODEL_TYPE || !known {
            return Err(damaged(format!(
                "model_type {:?} in format {}, while this program reads {MODEL_TYPE:?} in formats 1 and {FORMAT}",
                config.model_type, config.format
            )));
        }
        config.model.validate()?;
        config.preprocessing.validate()?;
        if config.classes.len() != config.model.num_classes() {
            return Err(damaged(format!(
                "{} class names for {} logits",
                config.classes.len(),
                config.model.num_classes()
            )));
        }
        if config.preprocessing.image_size != config.model.image_size {
            return Err(damaged(format!(
                "preprocessing to {} pixels for a model of {}",
                config.preprocessing.image_size, config.model.image_size
            )));
        }
        Ok(config)
    }

    /// Reads the `model.safetensors` that belongs to this configuration.
    fn read_weights(&self, path: &Path, device: &Device) -> Result<Parameters> {
        let (expected, checksum) = match self.format {
            FORMAT_WITHOUT_CHECKSUM => ("a safetensors file of weights", Checksum::Optional),
            _ => (
                "weights as a config.json of format 2 has them",
                Checksum::Required,
            ),
        };
        let tensors = checked_file::read(path, device, expected, checksum)?.tensors;
        Parameters::from_tensors(&self.model, tensors, device).map_err(|error| {
            let path = path.to_path_buf();
            let source = Box::new(error);
            ModelError::InFile { path, source }.into()
        })
    }

    /// Writes a `config.json`, replacing an old one at once or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        json_file::write(path, self)
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
    /// Reads `config.json` and `model.safetensors` from a directory.
    ///
    /// # Errors
    /// When either is missing, damaged, or they do not fit each other.
    pub fn open(directory: &Path, device: &Device) -> Result<Self> {
        let config = CheckpointConfig::read(&directory.join("config.json"))?;
        let weights = directory.join("model.safetensors");
        let parameters = config.read_weights(&weights, device)?;
        let model = parameters.inference_model(&config.model)?;
        Ok(Self {
            config,
            model,
            parameters,
            device: device.clone(),
        })
    }

    /// The device the model is on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The probability of every class for every picture, `[pictures][classes]`.
    ///
    /// # Errors
    /// When candle refuses an operation.
    pub fn classify(&self, images: &[Image]) -> Result<Vec<Vec<f32>>> {
        self.classify_by(Views::Picture, images)
    }

    /// [`Checkpoint::classify`] by more than the pictures alone.
    ///
    /// # Errors
    /// When candle refuses an operation.
    pub fn classify_by(&self, views: Views, images: &[Image]) -> Result<Vec<Vec<f32>>> {
        let input = self.config.preprocessing.tensor(images)?; // [n, 3, s, s]
        let scores = views.scores(&self.model, &input.to_device(&self.device)?)?;
        Ok(softmax(&scores)?.to_device(&Device::Cpu)?.to_vec2()?)
    }
}
