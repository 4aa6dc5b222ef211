//! Fine-tuning: initializes a run with the weights of a checkpoint.
//!
//! The run's model has the checkpoint's architecture. Only what needs no other weights may differ,
//! as well as the image size, and the head, which is freshly initialized if the classes differ.
//! Images are normalized as for the checkpoint: its weights expect inputs on that scale, and with
//! another mean and variance the first step would start from a model that sees other images than it
//! was trained on.
//!
//! The recipe keeps the checkpoint's name and the hash of its weights, so that it reproduces the
//! run or reports that it cannot. The run's state contains the weights themselves, so resuming does
//! not need the checkpoint.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use perceiver_model::{ModelConfig, Parameters, Transfer};
use serde::Serialize;
use toml::{Table, Value};

use crate::checkpoint::{Checkpoint, content};
use crate::error::{Result, TrainError};
use crate::recipe::Recipe;
use crate::recipe::diff::Difference;
use crate::recipe::initial_weights::InitialWeights;
use crate::run::checksummed_file::checksum;

/// The fields of `[model]` that may differ from the checkpoint's: no weight depends on them, or it
/// can be converted. Deviation and scale only affect initial values.
const FREE: [&str; 9] = [
    "image_size",
    "num_labels",
    "attention_probs_dropout_prob",
    "initializer_range",
    "classifier_units",
    "dropout_rate",
    "attention_dropout",
    "latent_deviation",
    "cross_attention_scale",
];

impl Checkpoint {
    /// Returns the hash of the weights' names, shapes and values: the `sha256` in the metadata of
    /// `model.safetensors`, whichever program wrote the file.
    ///
    /// # Errors
    /// When the weights cannot be read from the device.
    pub fn weights_sha256(&self) -> Result<String> {
        let tensors = self.parameters.tensors().into_iter();
        let tensors = tensors
            .map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?)))
            .collect::<Result<HashMap<String, Tensor>>>()?;
        let (metadata, tensors) = content(&self.config.model, tensors)?;
        let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
        Ok(checksum(&metadata, named))
    }

    /// Returns the recipe layer of this checkpoint for [`Recipe::from_layers`], which later layers may
    /// override: the architecture, and how images are resized and fitted.
    ///
    /// # Errors
    /// When TOML cannot represent a number.
    pub fn recipe_layer(&self) -> Result<String> {
        let preprocessing = &self.config.preprocessing;
        let mut data = Table::from_iter([
            ("antialias".to_string(), preprocessing.antialias.into()),
            ("fit".to_string(), preprocessing.fit.to_string().into()),
        ]);
        if let Some(steps) = &preprocessing.transformers {
            data.insert("transformers_preprocessing".to_string(), toml_of(steps)?);
        }
        let layer = Table::from_iter([
            (
                "model".to_string(),
                Value::Table(table(&self.config.model)?),
            ),
            ("data".to_string(), data.into()),
        ]);
        Ok(layer.to_string())
    }

    /// Checks that a model can be initialized with these weights.
    ///
    /// # Errors
    /// [`TrainError::OtherArchitecture`] with the first incompatible field and both its values.
    pub fn require_fit(&self, model: &ModelConfig) -> Result<()> {
        let fixed = |model: &ModelConfig| {
            let mut table = table(model)?;
            table.retain(|field, _| !FREE.contains(&field));
            Ok::<_, TrainError>(table)
        };
        match Difference::first(&fixed(&self.config.model)?, &fixed(model)?) {
            None => Ok(()),
            Some(Difference {
                field,
                expected,
                found,
            }) => Err(TrainError::OtherArchitecture {
                field,
                expected,
                found,
            }),
        }
    }

    /// Returns the weights for a model with these classes; if they differ from the checkpoint's,
    /// with the head of `fresh`.
    ///
    /// # Errors
    /// As for [`Checkpoint::require_fit`].
    pub fn weights_for(
        &self,
        model: &ModelConfig,
        classes: &[String],
        fresh: &Parameters,
    ) -> Result<Transfer> {
        self.require_fit(model)?;
        let same_classes = self.config.classes == classes;
        let own = &self.config.model;
        Ok(self
            .parameters
            .transferred(own, model, fresh, same_classes)?)
    }
}

impl Recipe {
    /// Sets `checkpoint`, called `name`, as the run's initial weights: records their hash and,
    /// unless the recipe has one, the normalization.
    ///
    /// # Errors
    /// When the recipe was made for other weights, or its model cannot use these.
    pub fn initialize_from(&mut self, name: &str, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.require_fit(&self.model)?;
        let found = checkpoint.weights_sha256()?;
        let initial = self.training.init_from.get_or_insert_default();
        if !initial.sha256.is_empty() && initial.sha256 != found {
            return Err(TrainError::OtherWeights {
                checkpoint: name.to_string(),
                expected: initial.sha256.clone(),
                found,
            });
        }
        *initial = InitialWeights {
            checkpoint: name.to_string(),
            sha256: found,
        };
        let own = &checkpoint.config.preprocessing.normalization;
        self.data.normalization.get_or_insert_with(|| own.clone());
        Ok(())
    }
}

fn table(model: &ModelConfig) -> Result<Table> {
    match toml_of(model)? {
        Value::Table(table) => Ok(table),
        _ => Ok(Table::new()),
    }
}

fn toml_of(part: &impl Serialize) -> Result<Value> {
    Value::try_from(part).map_err(|error| TrainError::Recipe {
        name: "of a checkpoint".to_string(),
        finding: error.to_string(),
    })
}
