//! Fine-tunes a trained model on a folder of images with other classes.
//!
//! `cargo run --example fine_tune -- runs/shapes-quickstart-1 photos runs/tuned`

use std::path::PathBuf;

use candle_core::Device;
use perceiver_data::{BoxError, Source};
use perceiver_train::{Checkpoint, Preset, Recipe, RunDirectory, Trainer, TrainingData};

fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [checkpoint, photos, output] = &arguments[..] else {
        return Err("usage: fine_tune RUN FOLDER OUTPUT".into());
    };
    let checkpoint_name = checkpoint;
    let checkpoint = Checkpoint::open(checkpoint_name, &Device::Cpu)?;

    // The checkpoint's architecture over the preset; what you set comes last.
    let mut recipe = Recipe::from_layers(&[
        ("quickstart", Preset::Quickstart.toml()),
        (checkpoint_name, &checkpoint.recipe_layer()?),
    ])?;
    recipe.data.dataset = Source::Folder(PathBuf::from(photos));
    recipe.training.epochs = 10;
    recipe.training.learning_rate = 1e-4;
    recipe.initialize_from(checkpoint_name, &checkpoint)?;

    let data = TrainingData::load(&recipe)?;
    let run = RunDirectory::create(output)?;
    let (mut trainer, transfer) = Trainer::start_from(&checkpoint, recipe, data, run, Device::Cpu)?;
    println!("the head is new: {}", transfer.has_fresh_head);
    trainer.fit(&mut ())?;
    Ok(())
}
