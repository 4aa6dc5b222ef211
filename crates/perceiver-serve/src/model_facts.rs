//! `/model`: facts of the model for clients and the page, as a model card has them.

use perceiver_data::{Fit, Source};
use perceiver_model::{Architecture, ModelConfig, Summary};
use perceiver_train::{Checkpoint, Predictor, TestTimeAugmentation};
use serde::Serialize;

use crate::config::ServeConfig;
use crate::error::Result;

/// The answer to `/model`.
#[derive(Debug, Serialize)]
pub(crate) struct ModelFacts {
    name: String,
    kind: String,
    parameters: usize,
    multiply_adds: u64,
    image_size: usize,
    test_time_flip: bool,
    fit: ShownFit,
    classes: Vec<String>,
    training: Training,
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<Results>,
    top_k: usize,
    limits: ShownLimits,
    version: &'static str,
}

/// How an image becomes a square.
#[derive(Debug, Serialize)]
struct ShownFit {
    /// `stretch`, `crop` or `pad`.
    kind: String,
    /// The side of the square, relative to the shorter side of a cropped image.
    share: f64,
}

#[derive(Debug, Serialize)]
struct Training {
    /// The data set, if it is public.
    #[serde(skip_serializing_if = "Option::is_none")]
    dataset: Option<String>,
    /// 0 if unknown.
    images: usize,
}

#[derive(Debug, Serialize)]
struct Results {
    dataset: String,
    images: u64,
    accuracy: f64,
    accuracy_interval_95: [f64; 2],
    top5_accuracy: f64,
}

#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names of the flags")]
struct ShownLimits {
    max_body: u64,
    max_pixels: u64,
    max_images: usize,
}

impl ModelFacts {
    /// Collects the facts of a predictor's checkpoint.
    ///
    /// # Errors
    /// When its architecture cannot be described.
    pub(crate) fn new(predictor: &Predictor, config: &ServeConfig) -> Result<Self> {
        let checkpoint = predictor.checkpoint();
        let model = &checkpoint.config.model;
        let summary = Summary::new(model)?;
        let data = &checkpoint.config.data;
        let results = config.results.as_ref().map(|results| Results {
            dataset: public(data.dataset.as_ref())
                .unwrap_or_else(|| "images of its author".to_string()),
            images: results.images,
            accuracy: results.acc,
            accuracy_interval_95: results.acc_interval_95,
            top5_accuracy: results.top5_acc,
        });
        let limits = &config.limits;
        Ok(Self {
            name: config.name.clone(),
            kind: kind(model),
            parameters: summary.parameters(),
            multiply_adds: summary.multiply_adds(),
            image_size: model.image_size(),
            test_time_flip: predictor.augmentation() == TestTimeAugmentation::HorizontalFlip,
            fit: ShownFit::of(checkpoint),
            classes: checkpoint.config.classes.clone(),
            training: Training {
                dataset: public(data.dataset.as_ref()),
                images: data.train_images,
            },
            results,
            top_k: config.top_k,
            limits: ShownLimits {
                max_body: limits.max_body,
                max_pixels: limits.max_pixels,
                max_images: limits.max_images,
            },
            version: env!("CARGO_PKG_VERSION"),
        })
    }
}

fn kind(model: &ModelConfig) -> String {
    match model {
        ModelConfig::Perceiver(_) => "Perceiver".to_string(),
        ModelConfig::PerceiverIo(_) => "Perceiver IO".to_string(),
        ModelConfig::Custom(_) => model.name().to_string(),
    }
}

/// Returns the name of a public data set. A path says something about the machine it is on.
fn public(source: Option<&Source>) -> Option<String> {
    let source = source?;
    match source {
        Source::Cifar10 | Source::Cifar100 | Source::Shapes | Source::Hub { .. } => {
            Some(source.to_string())
        }
        Source::Folder(_) | Source::Shards { .. } | Source::Memory(_) => None,
    }
}

impl ShownFit {
    fn of(checkpoint: &Checkpoint) -> Self {
        let preprocessing = &checkpoint.config.preprocessing;
        match &preprocessing.transformers {
            Some(steps) if steps.do_center_crop => Self {
                kind: Fit::Crop.to_string(),
                share: steps.size.height as f64 / steps.crop_size.height as f64,
            },
            Some(_) => Self {
                kind: Fit::Stretch.to_string(),
                share: 1.0,
            },
            None => Self {
                kind: preprocessing.fit.to_string(),
                share: 1.0,
            },
        }
    }
}
