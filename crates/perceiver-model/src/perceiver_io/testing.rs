//! Inputs of tests.

use candle_core::{Device, Tensor};
use perceiver_ops::RngKey;

/// Returns a tensor of random values in ±1, which depend on the seed alone.
pub(crate) fn tensor(seed: u64, shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>() as u64;
    let values = (0..count).map(|i| (RngKey::new(seed).bits(i) >> 40) as f32 / 8_388_608.0 - 1.0);
    let values = Tensor::from_iter(values, &Device::Cpu).unwrap();
    values.reshape(shape).unwrap()
}
