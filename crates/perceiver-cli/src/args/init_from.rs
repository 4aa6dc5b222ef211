//! `perceiver train --init-from`: fine-tuning from a checkpoint.

use anyhow::{Result, anyhow};
use perceiver_model::{Architecture, Transfer};
use perceiver_train::{
    Checkpoint, DeviceChoice, Preset, Recipe, SharedImages, TrainError, Trainer, TrainingData,
};

use crate::args::checkpoint::CheckpointFlags;
use crate::args::recipe::Layers;

/// Builds the recipe from a preset and the layers over it. If these name an initial checkpoint, its
/// architecture goes between the two.
pub(crate) fn recipe(layers: &Layers, preset: Preset) -> Result<Recipe> {
    let Some(name) = layers.init_from() else {
        return layers.over(preset);
    };
    let checkpoint = open_named(name)?;
    let layer = checkpoint.recipe_layer()?.parse()?;
    let layer = (format!("of --init-from {name}"), layer);
    let mut recipe = layers.above(layer).over(preset)?;
    let begun = recipe.initialize_from(name, &checkpoint);
    begun.map_err(|error| with_remedy(name, &error))?;
    Ok(recipe)
}

/// Opens the initial checkpoint of a recipe, if any.
pub(crate) fn checkpoint(recipe: &Recipe) -> Result<Option<Checkpoint>> {
    let Some(initial) = &recipe.training.init_from else {
        return Ok(None);
    };
    let name = &initial.checkpoint;
    let checkpoint = open_named(name)?;
    // It may have changed while the data was loading.
    let begun = recipe.clone().initialize_from(name, &checkpoint);
    begun.map_err(|error| with_remedy(name, &error))?;
    Ok(Some(checkpoint))
}

fn open_named(name: &str) -> Result<Checkpoint> {
    CheckpointFlags::of("--init-from", name, false).open(DeviceChoice::Cpu)
}

/// Describes why a run cannot start from a checkpoint, with a remedy.
fn with_remedy(name: &str, error: &TrainError) -> anyhow::Error {
    let remedy = match error {
        TrainError::OtherArchitecture { .. } => "; omit the field to use the checkpoint's value",
        TrainError::OtherWeights { .. } => {
            "; to start from these weights anyway, name the checkpoint by --init-from"
        }
        _ => "",
    };
    anyhow!("--init-from {name}: {error}{remedy}")
}

/// Checks whether training images are among the test images of the initial checkpoint, records the
/// overlap, and logs it.
pub(crate) fn compare_images(checkpoint: &Checkpoint, recipe: &Recipe, data: &mut TrainingData) {
    let name = recipe.training.init_from.as_ref();
    let name = name.map_or("the checkpoint", |initial| initial.checkpoint.as_str());
    let unknown = "cannot check whether its test images are among the training images";
    match data.shared_with_test_of(checkpoint, recipe) {
        Err(error) => tracing::warn!("--init-from {name}: {unknown}: {error}"),
        Ok(None) => tracing::debug!("--init-from {name}: {unknown}: they are not available"),
        Ok(Some(SharedImages {
            shared,
            test,
            split_seed,
        })) => {
            data.init_overlap = Some(shared);
            if shared > 0 {
                let remedy = split_seed.map_or_else(String::new, |seed| {
                    format!("; --set data.split_seed={seed} splits the folder as it was split then")
                });
                tracing::warn!(
                    "--init-from {name}: {shared} of its {test} test images are training or validation images of this run, \
                     so neither test result is on unseen images{remedy}"
                );
            }
        }
    }
}

/// Logs which weights were taken from the checkpoint.
pub(crate) fn log_transfer((trainer, transfer): &(Trainer, Transfer)) {
    let recipe = trainer.recipe();
    let Some(initial) = &recipe.training.init_from else {
        return;
    };
    let sha256 = initial.sha256.get(..12).unwrap_or_default();
    tracing::info!(
        "starting from the weights and the normalization of {} (sha256 {sha256})",
        initial.checkpoint
    );
    if transfer.has_fresh_head {
        tracing::info!(
            "new classification head: the {} classes differ from the checkpoint's",
            recipe.model.num_classes()
        );
    }
    if let Some((from, to)) = transfer.resized {
        tracing::info!("position encodings resized from {from} x {from} tokens to {to} x {to}");
    }
}
