//! `perceiver train --init-from`: a run that begins with the weights of a checkpoint.

use anyhow::{Result, anyhow};
use perceiver_model::Transfer;
use perceiver_train::{
    Checkpoint, DeviceChoice, Preset, Recipe, SharedImages, TrainError, Trainer, TrainingData,
};

use crate::checkpoint::CheckpointFlags;
use crate::recipe_flags::Layers;

/// The recipe of a preset with layers over it; where these name a checkpoint to begin with, its architecture lies between.
pub(crate) fn recipe(layers: &Layers, preset: Preset) -> Result<Recipe> {
    let Some(name) = layers.init_from() else {
        return layers.over(preset);
    };
    let checkpoint = open_named(name)?;
    let layer = (format!("of --init-from {name}"), checkpoint.recipe_layer()?);
    let mut recipe = layers.above(layer).over(preset)?;
    let begun = recipe.begin_with(name, &checkpoint);
    begun.map_err(|error| refused(name, &error))?;
    Ok(recipe)
}

/// The checkpoint that a run by this recipe begins with, if it does not with fresh weights.
pub(crate) fn checkpoint(recipe: &Recipe) -> Result<Option<Checkpoint>> {
    let Some(initial) = &recipe.training.init_from else {
        return Ok(None);
    };
    let name = &initial.checkpoint;
    let checkpoint = open_named(name)?;
    // It may have changed while the data were read.
    let begun = recipe.clone().begin_with(name, &checkpoint);
    begun.map_err(|error| refused(name, &error))?;
    Ok(Some(checkpoint))
}

fn open_named(name: &str) -> Result<Checkpoint> {
    CheckpointFlags::of("--init-from", name, false).open(DeviceChoice::Cpu)
}

/// Why a run cannot begin with a checkpoint, and what to do about it.
fn refused(name: &str, error: &TrainError) -> anyhow::Error {
    let remedy = match error {
        TrainError::OtherArchitecture { .. } => "; leave the field out to have the checkpoint's",
        TrainError::OtherWeights { .. } => {
            "; to begin with these all the same, name the checkpoint by --init-from"
        }
        _ => "",
    };
    anyhow!("--init-from {name}: {error}{remedy}")
}

/// Looks whether a run learns from test images of the checkpoint it begins with, notes it, and says so.
pub(crate) fn compare_images(checkpoint: &Checkpoint, recipe: &Recipe, data: &mut TrainingData) {
    let name = recipe.training.init_from.as_ref();
    let name = name.map_or("the checkpoint", |initial| initial.checkpoint.as_str());
    let unknown = "whether its test images are among the training images is not known";
    match data.shared_with_test_of(checkpoint, recipe) {
        Err(error) => tracing::warn!("--init-from {name}: {unknown}: {error}"),
        Ok(None) => tracing::debug!("--init-from {name}: {unknown}: they are not here"),
        Ok(Some(SharedImages {
            shared,
            test,
            split_seed,
        })) => {
            data.init_overlap = Some(shared);
            if shared > 0 {
                let remedy = split_seed.map_or_else(String::new, |seed| {
                    format!(
                        "; --set data.split_seed={seed} divides the folder as it was divided then"
                    )
                });
                tracing::warn!(
                    "--init-from {name}: {shared} of its {test} test images are training or validation images of this run: \
                     neither test result is of unseen images any more{remedy}"
                );
            }
        }
    }
}

/// Says what became of a checkpoint's weights.
pub(crate) fn say((trainer, transfer): &(Trainer, Transfer)) {
    let recipe = trainer.recipe();
    let Some(initial) = &recipe.training.init_from else {
        return;
    };
    let sha256 = initial.sha256.get(..12).unwrap_or_default();
    tracing::info!(
        "beginning with the weights of {} (sha256 {sha256}) and its normalization",
        initial.checkpoint
    );
    if transfer.has_fresh_head {
        tracing::info!(
            "the head is fresh: the {} classes are not the checkpoint's",
            recipe.model.num_classes()
        );
    }
    if let Some((from, to)) = transfer.resized {
        tracing::info!("positions were resized from {from} x {from} tokens to {to} x {to}");
    }
}
