//! Cold start: the time of a process that reads a checkpoint and an image, prints a class, and
//! exits.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use candle_core::Device;
use perceiver_data::{LoadOptions, Normalization, Preprocessing, Source, Split};
use perceiver_model::{Architecture, Parameters};
use perceiver_train::{CheckpointConfig, DataCard, Recipe, write_weights};

use super::contestant::OURS;
use super::peers::Peer;
use super::report::Report;
use super::workload::Task;
use super::{Bench, program};
use crate::error::{Result, XtaskError};
use crate::pictures;
use crate::progress::Progress;

/// Adds `start.seconds` and, with Keras on TensorFlow, `start.keras-tensorflow.seconds` and the ratio of the two.
pub(super) fn run(bench: &Bench, report: &mut Report, progress: &dyn Progress) -> Result<()> {
    let recipe = bench.workload(Task::Infer).recipe()?;
    let directory =
        tempfile::tempdir().map_err(XtaskError::io("create", "a temporary directory"))?;
    let image = image_file(directory.path())?;
    write_checkpoint(&recipe, directory.path())?;
    progress.message("start: building the program");
    let program = program::build(program::features(bench.device))?;
    let ours = || {
        let mut command = Command::new(&program);
        command
            .args(["predict", "--checkpoint"])
            .arg(directory.path());
        command
            .arg(format!("--device={}", bench.device))
            .arg(&image);
        command
    };
    let keras = |python: &str| -> Result<Command> {
        let mut command = Command::new(python);
        let config = serde_json::to_string(&recipe.model).unwrap_or_default();
        command
            .arg(bench.scripts.join("keras_speed.py"))
            .args(["start", &config])
            .arg(directory.path().join("keras.weights.h5"))
            .arg(&image)
            .envs(Peer::KerasTensorflow.environment());
        Ok(command)
    };
    let python = bench.python_of(Peer::KerasTensorflow);
    if let Some(python) = python {
        progress.message("start: Keras writes its weights");
        seconds("keras-tensorflow", keras(python)?)?;
    }
    seconds(OURS, ours())?; // The first run loads the program from disk.
    let (mut our_seconds, mut keras_seconds, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=bench.rounds {
        progress.message(&format!("start, round {round} of {}", bench.rounds));
        let our = seconds(OURS, ours())?;
        our_seconds.push(our);
        if let Some(python) = python {
            let theirs = seconds("keras-tensorflow", keras(python)?)?;
            keras_seconds.push(theirs);
            ratios.push(theirs / our);
        }
    }
    report.add("start.seconds", &our_seconds);
    report.add("start.keras-tensorflow.seconds", &keras_seconds);
    report.add("start.times_keras-tensorflow", &ratios);
    Ok(())
}

/// Writes an image file.
fn image_file(directory: &Path) -> Result<PathBuf> {
    let options = LoadOptions::default();
    let paths = pictures::save(&Source::Shapes, Split::Test, 1, &options, directory)?;
    Ok(paths.into_iter().next().unwrap_or_default())
}

/// Writes a checkpoint with the recipe's model, untrained: loading and predicting take as long.
fn write_checkpoint(recipe: &Recipe, directory: &Path) -> Result<()> {
    let parameters = Parameters::from_seed(&recipe.model, 0, &Device::Cpu)?;
    let tensors = parameters.tensors();
    let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    write_weights(named, &directory.join("model.safetensors"))?;
    let config = CheckpointConfig::new(
        recipe.model.clone(),
        Preprocessing {
            image_size: recipe.model.image_size(),
            antialias: recipe.data.antialias,
            fit: recipe.data.fit,
            normalization: Normalization {
                mean: vec![0.0; 3],
                variance: vec![1.0; 3],
            },
            transformers: None,
        },
        (0..recipe.model.num_classes())
            .map(|class| class.to_string())
            .collect(),
        DataCard {
            labels: recipe.data.labels,
            split_seed: Some(0),
            ..DataCard::unknown()
        },
    );
    Ok(config.write(&directory.join("config.json"))?)
}

fn seconds(name: &str, mut command: Command) -> Result<f64> {
    let start = Instant::now();
    program::run(name, &mut command)?;
    Ok(start.elapsed().as_secs_f64())
}
