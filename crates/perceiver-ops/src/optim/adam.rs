//! An in-place Adam step of one parameter.
//!
//! `m += (g - m) * rate_1`, `v += (g^2 - v) * rate_2`, `w -= step_size * m / (sqrt(v) + epsilon)`
//! (Kingma and Ba, "Adam", 2015, the form before section 2.1, which is Keras's). Composed of
//! candle's operations, it allocates ten tensors of the parameter's size.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::in_place;
use crate::cpu::simd::vectorised;
use crate::cpu::{self, TASK};
use crate::optim::ema::{ema_update_composed, follow_squares, follow_values};

/// Hyperparameters of an Adam step, the same for all parameters.
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    /// Update rate of the mean of gradients: `1 - beta_1`.
    pub first_rate: f32,
    /// Update rate of the mean of squared gradients: `1 - beta_2`.
    pub second_rate: f32,
    /// Learning rate, with bias correction of the means.
    pub step_size: f32,
    /// Epsilon, which keeps the quotient finite.
    pub epsilon: f32,
}

/// Updates `first` and `second`, the means of gradients and squared gradients, then `parameter`,
/// all of one shape and in place: clones share the change.
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
        bail!(
            "adam: expected a parameter, two moments and a gradient of one shape, found {dims:?}"
        );
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

/// Computes [`adam_step`] by candle's operations: the fallback for devices without a kernel, and
/// the reference in tests.
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
    ema_update_composed(first, gradient, step.first_rate, false)?;
    ema_update_composed(second, gradient, step.second_rate, true)?;
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
