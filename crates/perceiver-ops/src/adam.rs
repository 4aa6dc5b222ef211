//! One parameter's step of Adam, in place.
//!
//! `m += (g - m) * rate_1`, `v += (g^2 - v) * rate_2`, `w -= step_size * m / (sqrt(v) + epsilon)` (Kingma and Ba, "Adam", 2015,
//! the form before section 2.1, which is Keras's). Composed of candle's operations, it makes ten tensors as large as the
//! parameter.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{self, TASK};
use crate::in_place;
use crate::moving_mean::{follow_squares, follow_values, move_mean_composed};
use crate::simd::vectorised;

/// The numbers of a step, the same for all parameters.
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    /// How far the mean of the gradients moves towards the newest: `1 - beta_1`.
    pub first_rate: f32,
    /// The same for the mean of their squares: `1 - beta_2`.
    pub second_rate: f32,
    /// The learning rate, corrected for the means' start at zero.
    pub step_size: f32,
    /// Keeps the quotient finite.
    pub epsilon: f32,
}

/// Moves `first` and `second`, the means of the gradients and of their squares, then `parameter`; all of one shape. They
/// change where they are, so whoever holds a clone of one sees the change.
///
/// # Errors
/// When the shapes differ or a tensor is not contiguous.
pub fn adam_step(
    parameter: &Tensor,
    first: &Tensor,
    second: &Tensor,
    gradient: &Tensor,
    step: AdamStep,
) -> Result<()> {
    let tensors = [parameter, first, second, gradient];
    if tensors
        .iter()
        .any(|tensor| tensor.dims() != parameter.dims())
    {
        let dims = tensors.map(Tensor::dims);
        bail!("adam: expected a parameter, two means and a gradient of one shape, found {dims:?}");
    }
    if !tensors.into_iter().all(cpu::has_kernels) {
        return adam_step_composed(parameter, first, second, gradient, step);
    }
    let (gradient, moved) = (gradient.contiguous()?, [parameter, first, second]);
    in_place::change_three("adam", moved, &gradient, |moved, gradient| {
        let [parameter, first, second] = moved.map(|values| values.par_chunks_mut(TASK));
        let values = (parameter, first, second, gradient.par_chunks(TASK));
        values
            .into_par_iter()
            .for_each(|(parameter, first, second, gradient)| {
                follow_values(first, gradient, step.first_rate);
                follow_squares(second, gradient, step.second_rate);
                descend(parameter, first, second, step);
            });
    })
}

/// [`adam_step`] by candle's own operations: what every device runs that has no kernel, and what the kernel is tested
/// against.
///
/// # Errors
/// As for [`adam_step`].
pub fn adam_step_composed(
    parameter: &Tensor,
    first: &Tensor,
    second: &Tensor,
    gradient: &Tensor,
    step: AdamStep,
) -> Result<()> {
    move_mean_composed(first, gradient, step.first_rate, false)?;
    move_mean_composed(second, gradient, step.second_rate, true)?;
    let flat = |tensor: &Tensor| tensor.detach().flatten_all();
    let [parameter, first, second] = [flat(parameter)?, flat(first)?, flat(second)?];
    let change =
        ((&first * f64::from(step.step_size))? / (second.sqrt()? + f64::from(step.epsilon))?)?;
    parameter.slice_set(&(&parameter - change)?, 0, 0)
}

vectorised! {
    fn descend(parameter: &mut [f32], first: &[f32], second: &[f32], step: AdamStep) {
        for (parameter, (first, second)) in parameter.iter_mut().zip(first.iter().zip(second)) {
            *parameter -= first * step.step_size / (second.sqrt() + step.epsilon);
        }
    }
}
