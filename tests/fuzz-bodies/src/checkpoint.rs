//! Readers of checkpoints and runs.

use std::fs;
use std::io::{Cursor, Write};

use candle_core::Device;
use perceiver_data::{Image, TransformersPreprocessing};
use perceiver_model::read_pytorch;
use perceiver_train::{Checkpoint, CheckpointConfig, Recipe, RunDirectory, TrainingState};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::sealed::sealed;

/// The configuration for the inputs of [`weights`], and the recipe for those of [`state`].
const CONFIG: &str = include_str!("../seeds/config.json");
const RECIPE: &str = include_str!("../seeds/recipe.toml");

/// The weights for the inputs of [`config`].
const WEIGHTS: &[u8] = include_bytes!("../seeds/model.safetensors");

/// Reads a `config.json` beside the weights of a model of eight pixels.
///
/// # Panics
/// If its files cannot be written, or a reader has a bug.
pub fn config(input: &[u8]) -> bool {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("config.json"), input).unwrap();
    fs::write(root.path().join("model.safetensors"), WEIGHTS).unwrap();
    let read = CheckpointConfig::read(root.path().join("config.json")).is_ok();
    read && Checkpoint::open(root.path(), &Device::Cpu).is_ok()
}

/// Reads a `model.safetensors`, unchanged and with a valid checksum.
///
/// # Panics
/// If its files cannot be written, or a reader has a bug.
pub fn weights(input: &[u8]) -> bool {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("config.json"), CONFIG).unwrap();
    let open = |file| {
        fs::write(root.path().join("model.safetensors"), file).unwrap();
        Checkpoint::open(root.path(), &Device::Cpu).is_ok()
    };
    open(input.to_vec()) | sealed(input).is_some_and(open)
}

/// Reads a `pytorch_model.bin`, of which no code may run. An input that begins as a pickle does is
/// also read as that of an archive with valid checksums.
///
/// # Panics
/// If its file cannot be written, or the reader has a bug.
pub fn pytorch(input: &[u8]) -> bool {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("pytorch_model.bin");
    let read = |file: &[u8]| {
        fs::write(&path, file).unwrap();
        read_pytorch(&path).is_ok()
    };
    read(input) | (input.starts_with(b"\x80") && read(&pytorch_archive(input)))
}

/// Returns a `pytorch_model.bin` with this pickle and two storages of 24 bytes.
fn pytorch_archive(pickle: &[u8]) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let storage = &[9; 24][..];
    for (name, content) in [
        ("data.pkl", pickle),
        ("data/0", storage),
        ("data/1", storage),
    ] {
        archive.start_file(name, stored).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// Reads a `preprocessor_config.json` of transformers, and preprocesses an image as it says if that
/// is small.
///
/// # Panics
/// If the reader has a bug.
pub fn preprocessor(input: &[u8]) -> bool {
    let Ok(preprocessing) = TransformersPreprocessing::from_json(input) else {
        return false;
    };
    let image = Image::new(5, 7, vec![9; 3 * 5 * 7]).unwrap();
    if preprocessing.size.height.max(preprocessing.size.width) <= 64 {
        let _ = preprocessing.tensor(&[image]); // an error, or a tensor
    }
    true
}

/// Reads a `state.safetensors`, unchanged and with a valid checksum.
///
/// # Panics
/// If its files cannot be written, or a reader has a bug.
pub fn state(input: &[u8]) -> bool {
    let root = tempfile::tempdir().unwrap();
    let training = root.path().join("training");
    fs::create_dir(&training).unwrap();
    fs::write(training.join("recipe.toml"), RECIPE).unwrap();
    let run = RunDirectory::open(root.path()).unwrap();
    let recipe = Recipe::read(run.recipe()).unwrap();
    let read = |file| {
        fs::write(run.state(), file).unwrap();
        TrainingState::read(&run, &run.state(), &recipe).is_ok()
    };
    read(input.to_vec()) | sealed(input).is_some_and(read)
}

/// Reads a recipe.
///
/// # Panics
/// If its files cannot be written, or a reader has a bug.
pub fn recipe(input: &[u8]) -> bool {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("recipe.toml");
    fs::write(&path, input).unwrap();
    let Ok(recipe) = Recipe::read(&path) else {
        return false;
    };
    // A recipe that can be read can be written, and read again.
    let text = recipe.to_toml().unwrap();
    fs::write(&path, &text).unwrap();
    assert_eq!(Recipe::read(&path).unwrap().to_toml().unwrap(), text);
    true
}
