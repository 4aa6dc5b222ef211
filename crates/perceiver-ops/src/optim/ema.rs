//! Exponential moving averages, in place: `mean += (value - mean) * rate`.
//!
//! Adam's and LAMB's moments are such means of gradients and squared gradients; averaged weights
//! (EMA) are means of weights.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::in_place;
use crate::cpu::simd::vectorised;
use crate::cpu::{self, TASK};

/// Moves `mean` towards `value` by the fraction `rate`, in place: clones of `mean` share the
/// change.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use perceiver_ops::ema_update;
///
/// let mean = Tensor::new(&[1f32, 2.0], &Device::Cpu)?;
/// ema_update(&mean, &Tensor::new(&[3f32, 2.0], &Device::Cpu)?, 0.25)?;
/// assert_eq!(mean.to_vec1::<f32>()?, [1.5, 2.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When the shapes differ or `mean` is not contiguous.
pub fn ema_update(mean: &Tensor, value: &Tensor, rate: f32) -> Result<()> {
    follow(mean, value, rate, false)
}

/// Moves `mean` towards the squares of `value`, as [`ema_update`] does.
///
/// # Errors
/// As for [`ema_update`].
pub fn ema_update_square(mean: &Tensor, value: &Tensor, rate: f32) -> Result<()> {
    follow(mean, value, rate, true)
}

fn follow(mean: &Tensor, value: &Tensor, rate: f32, squared: bool) -> Result<()> {
    if mean.dims() != value.dims() {
        bail!(
            "ema: expected an average and a value of one shape, found {:?} and {:?}",
            mean.dims(),
            value.dims()
        );
    }
    if cpu::has_kernels(mean) && cpu::has_kernels(value) {
        let follow = if squared {
            follow_squares
        } else {
            follow_values
        };
        let value = value.contiguous()?;
        return in_place::change_by_one("moving-mean", mean, &value, |mean, values| {
            mean.par_chunks_mut(TASK)
                .zip(values.par_chunks(TASK))
                .for_each(|(mean, values)| follow(mean, values, rate));
        });
    }
    ema_update_composed(mean, value, rate, squared)
}

/// Computes [`ema_update`] or [`ema_update_square`] by candle's operations: the fallback for
/// devices without a kernel, and the reference in tests.
///
/// # Errors
/// As for [`ema_update`].
pub fn ema_update_composed(mean: &Tensor, value: &Tensor, rate: f32, squared: bool) -> Result<()> {
    let (mean, value) = (mean.detach().flatten_all()?, value.detach().flatten_all()?);
    let value = if squared { value.sqr()? } else { value };
    let moved = (&mean + ((value - &mean)? * f64::from(rate))?)?;
    mean.slice_set(&moved, 0, 0)
}

vectorised! {
    pub(crate) fn follow_values(mean: &mut [f32], values: &[f32], rate: f32) {
        for (mean, value) in mean.iter_mut().zip(values) {
            *mean += (value - *mean) * rate;
        }
    }

    pub(crate) fn follow_squares(mean: &mut [f32], values: &[f32], rate: f32) {
        for (mean, value) in mean.iter_mut().zip(values) {
            *mean += (value * value - *mean) * rate;
        }
    }
}
