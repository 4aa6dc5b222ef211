//! The weights of a checkpoint, for a run to begin with in the place of fresh ones.
//!
//! The run's model has the checkpoint's architecture, but for what needs no other weights, the size of the images, and the head,
//! which is fresh where the classes are others. Pictures are normalized as the checkpoint's were: its weights expect numbers on that
//! scale, and with another mean and variance the first step would begin from a model that sees other pictures than it learned from.
//!
//! The recipe keeps the checkpoint's name and the hash of its weights, so that it repeats the run or says that it cannot; the run's
//! state has the weights themselves, so that the run goes on without the checkpoint.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor};
use perceiver_model::{Parameters, PerceiverConfig, Transfer};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::checked_file::checksum;
use crate::checkpoint::Checkpoint;
use crate::difference::Difference;
use crate::error::{Result, TrainError};
use crate::recipe::Recipe;

/// The fields of `[model]` that may differ from the checkpoint's: no weight depends on them, or it is carried over. Deviation and
/// scale are of first values only.
const FREE: [&str; 6] = [
    "image_size",
    "classifier_units",
    "dropout_rate",
    "attention_dropout",
    "latent_deviation",
    "cross_attention_scale",
];

/// The checkpoint that a run begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitialWeights {
    /// Where it is, as it was named.
    pub checkpoint: String,
    /// The hash of its weights, by [`Checkpoint::weights_sha256`]; empty until the run begins.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sha256: String,
}

impl Checkpoint {
    /// The hash of the weights' names, shapes and values: the `sha256` in the metadata of `model.safetensors`, whichever program
    /// wrote that.
    ///
    /// # Errors
    /// When the device does not hand the weights out.
    pub fn weights_sha256(&self) -> Result<String> {
        let tensors = self.parameters.tensors().into_iter();
        let tensors = tensors
            .map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?)))
            .collect::<Result<BTreeMap<String, Tensor>>>()?;
        let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
        Ok(checksum(&HashMap::new(), named))
    }

    /// What a recipe has of this checkpoint where nothing says otherwise: the architecture, and how pictures are shrunk and made to fit.
    ///
    /// # Errors
    /// When a number has no place in TOML.
    pub fn recipe_layer(&self) -> Result<Table> {
        let preprocessing = &self.config.preprocessing;
        Ok(Table::from_iter([
            (
                "model".to_string(),
                Value::Table(table(&self.config.model)?),
            ),
            (
                "data".to_string(),
                Table::from_iter([
                    ("antialias".to_string(), preprocessing.antialias.into()),
                    ("fit".to_string(), preprocessing.fit.to_string().into()),
                ])
                .into(),
            ),
        ]))
    }

    /// Makes sure that a model can begin with these weights.
    ///
    /// # Errors
    /// [`TrainError::OtherArchitecture`] with the first field that stands in the way, and both its values.
    pub fn require_fit(&self, model: &PerceiverConfig) -> Result<()> {
        let fixed = |model: &PerceiverConfig| {
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

    /// The weights for a model of these classes; where they are not the checkpoint's, with the head of `fresh`.
    ///
    /// # Errors
    /// As for [`Checkpoint::require_fit`].
    pub fn weights_for(
        &self,
        model: &PerceiverConfig,
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
    /// Settles that a run by this recipe begins with the weights of `checkpoint`, which people call `name`: notes the hash of the weights
    /// and, unless the recipe has one, the normalization.
    ///
    /// # Errors
    /// When the recipe was made for other weights, or its model cannot have these.
    pub fn begin_with(&mut self, name: &str, checkpoint: &Checkpoint) -> Result<()> {
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

fn table(model: &PerceiverConfig) -> Result<Table> {
    Table::try_from(model).map_err(|error| TrainError::Recipe {
        name: "of a checkpoint's architecture".to_string(),
        finding: error.to_string(),
    })
}
