//! Writes the logits of a checkpoint for seeded random inputs to a safetensors file, to compare
//! other frameworks with:
//!
//! ```sh
//! cargo run -p perceiver-train --example logits -- CHECKPOINT OUT.safetensors [SEED]
//! ```
//!
//! `input` is `[8, channels, side, side]`, uniform with mean 0 and variance 1, as after
//! preprocessing; `logits` is `[8, classes]`.

use std::path::Path;
use std::process::ExitCode;

use candle_core::{Device, Tensor};
use perceiver_model::Architecture;
use perceiver_ops::{Mode, RngKey};
use perceiver_train::Checkpoint;

const NUM_IMAGES: usize = 8;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.as_slice() {
        [checkpoint, out] => write(checkpoint, out, "0"),
        [checkpoint, out, seed] => write(checkpoint, out, seed),
        _ => Err("usage: logits CHECKPOINT OUT.safetensors [SEED]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(checkpoint: &str, out: &str, seed: &str) -> Result<(), Box<dyn std::error::Error>> {
    let checkpoint = Checkpoint::open(Path::new(checkpoint), &Device::Cpu)?;
    let model = &checkpoint.config.model;
    let shape = (
        NUM_IMAGES,
        model.channels(),
        model.image_size(),
        model.image_size(),
    );
    let key = RngKey::new(seed.parse()?);
    let count = NUM_IMAGES * model.channels() * model.image_size().pow(2);
    let input: Vec<f32> = (0..count as u64)
        .map(|index| value(key.bits(index)))
        .collect();
    let input = Tensor::from_vec(input, shape, &Device::Cpu)?;
    let logits = checkpoint.model.forward(&input, Mode::Inference)?;
    perceiver_train::write_weights([("input", &input), ("logits", &logits)], Path::new(out))?;
    Ok(())
}

/// Maps random bits to a uniform value with mean 0 and variance 1.
fn value(bits: u64) -> f32 {
    let unit = (bits >> 11) as f64 / (1u64 << 53) as f64;
    ((2.0 * unit - 1.0) * 3f64.sqrt()) as f32
}
