//! Trains on the embedded shapes for a moment, tests, and predicts an image.
//!
//! `cargo run --example train`

use candle_core::Device;
use perceiver_data::{BoxError, LoadOptions, Source, Split};
use perceiver_train::{Checkpoint, MetricsFile, Preset, RunDirectory, Trainer, TrainingData};

fn main() -> Result<(), BoxError> {
    // All settings of a run. Presets are starting points; every field can be set.
    let mut recipe = Preset::Quickstart.recipe();
    recipe.data.limit_train = Some(400);
    recipe.training.epochs = 2;

    let data = TrainingData::load(&recipe)?;
    let directory = tempfile::tempdir()?; // "runs/first" keeps the run
    let run = RunDirectory::create(directory.path().join("first"))?;
    let mut metrics = MetricsFile::new(run.metrics());
    let mut trainer = Trainer::start(recipe, data, run, Device::Cpu)?;
    trainer.fit(&mut metrics)?;

    let mut test = Source::Shapes.load(Split::Test, &LoadOptions::default())?;
    test.truncate(100);
    let results = trainer.test(&test.clone().into(), &mut ())?;
    println!("accuracy {:.1}%", 100.0 * results.acc);

    // What other programs need of the run: config.json and model.safetensors.
    let checkpoint = Checkpoint::open(trainer.run().root(), &Device::Cpu)?;
    let probabilities = checkpoint.classify(&test.images()[..1])?;
    let best = (0..probabilities[0].len())
        .max_by(|&a, &b| probabilities[0][a].total_cmp(&probabilities[0][b]));
    println!(
        "the first image: {}",
        checkpoint.config.classes[best.unwrap_or(0)]
    );
    Ok(())
}
