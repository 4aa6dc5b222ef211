//! Samples: random inputs of an exported model, with the results of this program.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use perceiver_data::Image;
use perceiver_export::ExportOptions;
use perceiver_model::{Architecture, Classifier};
use perceiver_ops::{RngKey, softmax};
use perceiver_train::{Checkpoint, TestTimeAugmentation};

/// The batch sizes of a file of samples.
const BATCHES: [usize; 3] = [1, 3, 17];

/// An input and its result.
#[derive(Debug)]
pub(crate) struct Sample {
    /// f32 `[batch, 3, size, size]`, or u8 `[batch, height, width, 3]`.
    pub(crate) input: Tensor,
    /// The input of the model, f32 `[batch, 3, size, size]`.
    images: Tensor,
    /// f32 `[batch, classes]`.
    pub(crate) expected: Tensor,
}

impl Sample {
    /// Creates a sample with this many images; images as bytes have another size for every number.
    pub(crate) fn new(
        checkpoint: &Checkpoint,
        options: &ExportOptions,
        batch: usize,
    ) -> Result<Self> {
        let (input, images) = if options.preprocessing.is_some() {
            pictures(checkpoint, batch)?
        } else {
            let input = noise(checkpoint, batch)?;
            (input.clone(), input)
        };
        let expected = results(&*checkpoint.model, options, &images)?;
        Ok(Self {
            input,
            images,
            expected,
        })
    }

    /// Returns the results in 64 bits, f32 `[batch, classes]`. Their difference from `expected` is the
    /// rounding of the model, which other engines have too: attention of random weights can be so sharp
    /// that rounding grows by some thousand times.
    pub(crate) fn exact(&self, checkpoint: &Checkpoint, options: &ExportOptions) -> Result<Tensor> {
        let model = &checkpoint.config.model;
        let model = checkpoint
            .parameters()
            .to_dtype(DType::F64)?
            .inference_model_in(model, DType::F64)?;
        results(&*model, options, &self.images)
    }
}

/// Computes logits or probabilities `[batch, classes]`.
fn results(model: &dyn Classifier, options: &ExportOptions, images: &Tensor) -> Result<Tensor> {
    let views = TestTimeAugmentation::new(options.flip_average);
    let scores = views.scores(model, images)?;
    let results = if options.softmax {
        softmax(&scores)?
    } else {
        scores
    };
    Ok(results.to_dtype(DType::F32)?)
}

/// Returns inputs of variance 1, as normalized images have it: `[batch, channels, size, size]`.
fn noise(checkpoint: &Checkpoint, batch: usize) -> Result<Tensor> {
    let model = &checkpoint.config.model;
    let (size, channels) = (model.image_size(), model.channels());
    let key = RngKey::new(batch as u64);
    let count = (batch * channels * size * size) as u64;
    let values = (0..count).map(|at| (unit(key, at) - 0.5) * 12f32.sqrt());
    let values = Tensor::from_iter(values, &Device::Cpu)?;
    Ok(values.reshape((batch, channels, size, size))?)
}

/// Returns random images u8 `[batch, height, width, 3]`, and the model's input for them.
fn pictures(checkpoint: &Checkpoint, batch: usize) -> Result<(Tensor, Tensor)> {
    let size = checkpoint.config.model.image_size();
    // Larger than images are downscaled to, or smaller than the model's input in one direction.
    let (height, width) = match batch % 3 {
        0 => (2 * size + 7, 3 * size + 2),
        1 => (size / 2 + 1, size + 3),
        _ => (size + 1, size),
    };
    let key = RngKey::new(batch as u64);
    let images: Vec<Vec<u8>> = (0..batch as u64)
        .map(|image| picture(key.fold_in(image), height, width))
        .collect();
    let bytes = Tensor::from_vec(images.concat(), (batch, height, width, 3), &Device::Cpu)?;
    let images = images.iter().map(|image| planar(image, height, width));
    let images = images.collect::<Result<Vec<_>>>()?;
    Ok((bytes, checkpoint.input(&images)?))
}

/// Writes samples of several batch sizes: `input.1`, `output.1`, and `exact.1`, the output in 64 bits,
/// then `input.3` and so on.
pub(crate) fn write(checkpoint: &Checkpoint, options: &ExportOptions, path: &Path) -> Result<()> {
    let mut tensors = HashMap::new();
    for batch in BATCHES {
        let sample = Sample::new(checkpoint, options, batch)?;
        let exact = sample.exact(checkpoint, options)?;
        tensors.insert(format!("exact.{batch}"), exact);
        tensors.insert(format!("input.{batch}"), sample.input);
        tensors.insert(format!("output.{batch}"), sample.expected);
    }
    candle_core::safetensors::save(&tensors, path)
        .with_context(|| format!("--samples {}", path.display()))
}

/// Returns a random number from 0 to 1.
fn unit(key: RngKey, at: u64) -> f32 {
    (key.bits(at) >> 40) as f32 / (1u32 << 24) as f32
}

/// Returns the bytes of a random image `[height, width, 3]`: a colour gradient with noise, since
/// noise alone is gray after downscaling.
fn picture(key: RngKey, height: usize, width: usize) -> Vec<u8> {
    let corners: Vec<f32> = (0..9).map(|at| 255.0 * unit(key, at)).collect();
    let mut bytes = Vec::with_capacity(3 * height * width);
    for row in 0..height {
        for column in 0..width {
            let (y, x) = (row as f32 / height as f32, column as f32 / width as f32);
            for channel in 0..3 {
                let of = |corner: usize| corners[3 * corner + channel];
                let gradient = of(0) + y * (of(1) - of(0)) + x * (of(2) - of(0));
                let noise = 80.0 * (unit(key, 9 + bytes.len() as u64) - 0.5);
                bytes.push((gradient + noise).clamp(0.0, 255.0) as u8);
            }
        }
    }
    bytes
}

/// Converts the bytes of an image `[height, width, 3]`.
fn planar(bytes: &[u8], height: usize, width: usize) -> Result<Image> {
    let planes = (0..3).flat_map(|channel| bytes.iter().skip(channel).step_by(3));
    Ok(Image::new(height, width, planes.copied().collect())?)
}
