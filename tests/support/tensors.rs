//! Input images for models, and comparison of tensors.

use candle_core::{Device, Tensor};
use perceiver_model::PerceiverConfig;
use perceiver_ops::RngKey;

/// Returns images with values in [-2, 2), a function of `seed`:
/// `[batch, channels, image_size, image_size]`.
///
/// # Panics
/// When they cannot be allocated.
#[must_use]
pub fn images(config: &PerceiverConfig, batch: usize, seed: u64) -> Tensor {
    let key = RngKey::new(seed);
    let shape = (batch, config.channels, config.image_size, config.image_size);
    let count = batch * config.channels * config.image_size.pow(2);
    let values: Vec<f32> = (0..count as u64)
        .map(|i| (key.bits(i) >> 40) as f32 / (1 << 22) as f32 - 2.0)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Returns all values of an `f32` tensor.
///
/// # Panics
/// When it has another type.
#[must_use]
pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Returns the largest absolute difference between two tensors of the same shape.
///
/// # Panics
/// When their shapes differ.
#[must_use]
pub fn distance(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let pairs = values(a).into_iter().zip(values(b));
    pairs.fold(0.0, |largest, (a, b)| largest.max((a - b).abs()))
}
