//! Running means that follow a tensor, in place: `mean += (value - mean) * rate`.
//!
//! Adam's and LAMB's moments are such means of gradients and of their squares, and averaged weights are one of weights.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{self, TASK};
use crate::in_place;
use crate::simd::vectorised;

/// Moves `mean` towards `value` by `rate` of the way. It changes where it is: whoever holds a clone of it sees the change.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use perceiver_ops::move_mean;
///
/// let mean = Tensor::new(&[1f32, 2.0], &Device::Cpu)?;
/// move_mean(&mean, &Tensor::new(&[3f32, 2.0], &Device::Cpu)?, 0.25)?;
/// assert_eq!(mean.to_vec1::<f32>()?, [1.5, 2.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When the shapes differ or `mean` is not contiguous.
pub fn move_mean(mean: &Tensor, value: &Tensor, rate: f32) -> Result<()> {
    follow(mean, value, rate, false)
}

/// [`move_mean`] towards the squares of `value`.
///
/// # Errors
/// As for [`move_mean`].
pub fn move_mean_square(mean: &Tensor, value: &Tensor, rate: f32) -> Result<()> {
    follow(mean, value, rate, true)
}

fn follow(mean: &Tensor, value: &Tensor, rate: f32, squared: bool) -> Result<()> {
    if mean.dims() != value.dims() {
        bail!(
            "moving mean: expected a mean and a value of one shape, found {:?} and {:?}",
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
    move_mean_composed(mean, value, rate, squared)
}

/// [`move_mean`], or [`move_mean_square`], by candle's own operations: what every device runs that has no kernel, and what
/// the kernel is tested against.
///
/// # Errors
/// As for [`move_mean`].
pub fn move_mean_composed(mean: &Tensor, value: &Tensor, rate: f32, squared: bool) -> Result<()> {
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
