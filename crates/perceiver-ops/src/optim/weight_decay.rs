//! Decoupled weight decay, in place: `w -= w * rate` (Loshchilov and Hutter, "Decoupled weight
//! decay regularization", 2019).

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::cpu::in_place::change_values;
use crate::cpu::simd::vectorised;
use crate::cpu::{self, TASK};

/// Subtracts `rate * parameter`, where `rate` is weight decay times learning rate, in place: clones
/// of `parameter` share the change.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let weights = Tensor::new(&[4f32, -2.0], &Device::Cpu)?;
/// perceiver_ops::decay(&weights, 0.25)?;
/// assert_eq!(weights.to_vec1::<f32>()?, [3.0, -1.5]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When `parameter` is not contiguous.
pub fn decay(parameter: &Tensor, rate: f32) -> Result<()> {
    if cpu::has_kernels(parameter) {
        return change_values("decay", parameter, |values| {
            values
                .par_chunks_mut(TASK)
                .for_each(|values| shrink(values, rate));
            Ok(())
        });
    }
    let flat = parameter.detach().flatten_all()?;
    flat.slice_set(&(&flat - (&flat * f64::from(rate))?)?, 0, 0)
}

vectorised! {
    fn shrink(values: &mut [f32], rate: f32) {
        for value in values {
            *value -= *value * rate;
        }
    }
}
