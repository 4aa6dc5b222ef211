//! Untrained checkpoints: random weights in the architecture of a preset, to try and measure a
//! server with, without data or training.

use std::path::Path;

use candle_core::Device;
use perceiver_data::{Fit, Normalization, Preprocessing};
use perceiver_model::{Architecture, Parameters};
use perceiver_train::{CheckpointConfig, DataCard, Preset, TrainError, write_weights};

use crate::error::Result;

/// Writes a checkpoint of a preset with the weights that training would begin with, by seed 0, into
/// an existing directory. Its classes are `class 0`, `class 1` and so on.
///
/// # Errors
/// When the files cannot be written.
pub fn write_untrained_checkpoint(
    preset: Preset,
    directory: impl AsRef<Path>,
) -> Result<(), TrainError> {
    let directory = directory.as_ref();
    let recipe = preset.recipe();
    let parameters = Parameters::from_seed(&recipe.model, 0, &Device::Cpu)?;
    let tensors = parameters
        .iter()
        .map(|(name, variable)| (name, variable.as_tensor()));
    write_weights(tensors, &directory.join("model.safetensors"))?;
    let preprocessing = Preprocessing {
        image_size: recipe.model.image_size(),
        antialias: recipe.data.antialias,
        fit: Fit::Stretch,
        normalization: Normalization {
            mean: vec![127.5; 3],
            variance: vec![4096.0; 3],
        },
        transformers: None,
    };
    let classes = (0..recipe.model.num_classes()).map(|class| format!("class {class}"));
    let config = CheckpointConfig::new(
        recipe.model,
        preprocessing,
        classes.collect(),
        DataCard::unknown(),
    );
    config.write(&directory.join("config.json"))
}
