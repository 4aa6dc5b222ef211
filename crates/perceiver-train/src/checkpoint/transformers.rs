//! Checkpoints of Hugging Face transformers: the `config.json` of a Perceiver IO image classifier.
//!
//! A run of this program that trains such a model writes the same files, so that `from_pretrained`
//! loads them. What transformers does not know, the exact preprocessing and the training data, is
//! under one more key of `config.json`, which it ignores.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Tensor;
use perceiver_data::{Preprocessing, Sides, TransformersPreprocessing};
use perceiver_model::{InputKind, ModelConfig, PerceiverIoConfig};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checkpoint::config::{CheckpointConfig, DataCard, LabelNumbers};
use crate::error::{Result, TrainError};

/// The key in `config.json` with what transformers does not know.
const KEY: &str = "perceiver_training";

/// The name of the file with the preprocessing.
pub(crate) const PREPROCESSOR: &str = "preprocessor_config.json";

/// What a run adds to the `config.json` of transformers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Training {
    pub(crate) format: u32,
    pub(crate) perceiver_version: String,
    /// The image size of a model whose `image_size` transformers does not read.
    pub(crate) image_size: usize,
    pub(crate) preprocessing: Preprocessing,
    pub(crate) data: DataCard,
}

/// The `config.json` that transformers reads.
#[derive(Serialize)]
pub(crate) struct Layout {
    model_type: &'static str,
    architectures: [&'static str; 1],
    #[serde(flatten)]
    model: PerceiverIoConfig,
    label2id: LabelNumbers,
    #[serde(rename = "perceiver_training")]
    training: Training,
}

impl Layout {
    pub(crate) fn new(model: &PerceiverIoConfig, classes: &[String], training: Training) -> Self {
        Self {
            model_type: "perceiver",
            architectures: [model.input.class()],
            model: PerceiverIoConfig {
                num_labels: None, // transformers counts the names
                id2label: Some(classes.iter().cloned().enumerate().collect()),
                ..model.clone()
            },
            label2id: LabelNumbers(classes.to_vec()),
            training,
        }
    }
}

/// Reads the `config.json` at `path`, whose content is `value`, and the `preprocessor_config.json`
/// beside it.
///
/// # Errors
/// When a file is no valid one of an image classifier, with a description in words, or its
/// preprocessing cannot be used.
pub(crate) fn read(path: &Path, value: Value) -> Result<CheckpointConfig> {
    let damaged = |finding: String| TrainError::Damaged {
        path: path.to_path_buf(),
        expected: "the config.json of a Perceiver IO image classifier of transformers".to_string(),
        finding,
    };
    let training = value.get(KEY).map(Training::deserialize).transpose();
    let training = training.map_err(|error| damaged(format!("{KEY}: {error}")))?;
    let model = PerceiverIoConfig::from_json(value);
    let model = model.map_err(|error| damaged(error.to_string()))?;
    let classes = model.class_names();
    let model = model.with_num_labels(classes.len());
    let Some(training) = training else {
        let preprocessing = preprocessing(&path.with_file_name(PREPROCESSOR))?;
        let image_size = image_size(&model, preprocessing.image_size);
        let model = PerceiverIoConfig {
            image_size,
            ..model
        };
        return Ok(CheckpointConfig::of_transformers(
            model,
            preprocessing,
            classes,
        ));
    };
    let image_size = training.image_size;
    let model = PerceiverIoConfig {
        image_size,
        ..model
    };
    Ok(CheckpointConfig::of_training(model, training, classes))
}

/// Returns the size of the images that a model takes: that of its position table, or any.
fn image_size(model: &PerceiverIoConfig, wanted: usize) -> usize {
    match model.input {
        InputKind::Learned => model.image_size,
        InputKind::Fourier | InputKind::Conv => wanted,
    }
}

/// Reads a `preprocessor_config.json`, whose steps transformers takes from the class of the model
/// if there is no such file.
fn preprocessing(path: &Path) -> Result<Preprocessing> {
    let steps = if path.exists() {
        TransformersPreprocessing::open(path)?
    } else {
        TransformersPreprocessing::default()
    };
    Ok(Preprocessing::from_transformers(steps)?)
}

/// Sets the input preprocessor of a Perceiver IO by the names of its weights, which know better
/// than `config.json`.
pub(crate) fn set_input(config: &mut CheckpointConfig, tensors: &HashMap<String, Tensor>) {
    if let ModelConfig::PerceiverIo(model) = &mut config.model {
        model.input = InputKind::of_tensors(tensors.keys().map(String::as_str));
        model.image_size = image_size(model, config.preprocessing.image_size);
    }
}

/// Returns the steps of transformers that come closest to a preprocessing: the same but for the
/// rounding of resized pixels to bytes.
pub(crate) fn steps(preprocessing: &Preprocessing) -> TransformersPreprocessing {
    use perceiver_data::{Fit, PillowFilter};

    if let Some(steps) = &preprocessing.transformers {
        return steps.clone();
    }
    let side = Sides::square(preprocessing.image_size);
    let normalization = &preprocessing.normalization;
    let channel = |values: &[f32], scale: fn(f64) -> f64| {
        std::array::from_fn(|channel| {
            let value = values.get(channel).copied().unwrap_or_default();
            scale(f64::from(value))
        })
    };
    TransformersPreprocessing {
        do_center_crop: preprocessing.fit != Fit::Stretch,
        crop_size: side,
        size: side,
        resample: PillowFilter::Bilinear,
        image_mean: channel(&normalization.mean, |mean| mean / 255.0),
        image_std: channel(&normalization.variance, |variance| {
            variance.sqrt().max(1e-7) / 255.0
        }),
        ..TransformersPreprocessing::default()
    }
}
