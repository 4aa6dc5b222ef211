//! An in-place LAMB step of one parameter.
//!
//! Adam's update `u = m' / (sqrt(v') + epsilon) + decay * w`, with bias-corrected `m'` and `v'`, is
//! scaled to the norm of the parameter: `w -= rate * |w| / |u| * u` (You et al., "Large batch
//! optimization for deep learning: training BERT in 76 minutes", 2020). If either norm is zero, the
//! quotient is one, as in Keras.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::in_place;
use crate::cpu::simd::{self, vectorised};
use crate::cpu::{self, TASK};
use crate::optim::ema::{ema_update, ema_update_composed, ema_update_square};
use crate::optim::grad_norm::{squares, sum_of_squares};

/// Hyperparameters of a LAMB step, the same for all parameters.
#[derive(Clone, Copy, Debug)]
pub struct LambStep {
    /// Update rate of the mean of gradients: `1 - beta_1`.
    pub first_rate: f32,
    /// Update rate of the mean of squared gradients: `1 - beta_2`.
    pub second_rate: f32,
    /// Bias correction of the mean of gradients: `1 / (1 - beta_1^t)`.
    pub first_correction: f32,
    /// Bias correction of the mean of squared gradients.
    pub second_correction: f32,
    /// Epsilon, which keeps the quotient finite.
    pub epsilon: f32,
    /// Weight decay inside the update, as in the paper.
    pub weight_decay: f32,
    /// Learning rate.
    pub learning_rate: f32,
}

/// Updates `first` and `second`, the means of gradients and squared gradients, then `parameter`,
/// all of one shape and in place: clones share the change.
///
/// # Errors
/// When the shapes differ or a tensor is not contiguous.
pub fn lamb_step(
    parameter: &Tensor,
    first: &Tensor,
    second: &Tensor,
    gradient: &Tensor,
    step: LambStep,
) -> Result<()> {
    if parameter.dims() != gradient.dims() {
        bail!(
            "lamb: expected a parameter and a gradient of one shape, found {:?} and {:?}",
            parameter.dims(),
            gradient.dims()
        );
    }
    if ![parameter, first, second].into_iter().all(cpu::has_kernels) {
        return lamb_step_composed(parameter, first, second, gradient, step);
    }
    ema_update(first, gradient, step.first_rate)?;
    ema_update_square(second, gradient, step.second_rate)?;
    in_place::change_by_two(
        "lamb",
        parameter,
        [first, second],
        |parameter, first, second| {
            step_values(step, parameter, first, second);
        },
    )
}

/// Computes the norms of parameter and update, then applies the update.
fn step_values(step: LambStep, parameter: &mut [f32], first: &[f32], second: &[f32]) {
    let moments = || first.par_chunks(TASK).zip(second.par_chunks(TASK));
    let sums: Vec<(f64, f64)> = parameter
        .par_chunks(TASK)
        .zip(moments())
        .map(|(parameter, (first, second))| {
            let update = update_squares(step, parameter, first, second);
            (squares(parameter), update)
        })
        .collect();
    let own = sums.iter().map(|(parameter, _)| parameter).sum();
    let length = step.length(own, sums.iter().map(|(_, update)| update).sum());
    parameter
        .par_chunks_mut(TASK)
        .zip(moments())
        .for_each(|(parameter, (first, second))| {
            descend(step, length, parameter, first, second);
        });
}

/// Computes [`lamb_step`] by candle's operations: the fallback for devices without a kernel, and
/// the reference in tests.
///
/// # Errors
/// As for [`lamb_step`].
pub fn lamb_step_composed(
    parameter: &Tensor,
    first: &Tensor,
    second: &Tensor,
    gradient: &Tensor,
    step: LambStep,
) -> Result<()> {
    ema_update_composed(first, gradient, step.first_rate, false)?;
    ema_update_composed(second, gradient, step.second_rate, true)?;
    let flat = |tensor: &Tensor| tensor.detach().flatten_all();
    let [parameter, first, second] = [flat(parameter)?, flat(first)?, flat(second)?];
    let first = (first * f64::from(step.first_correction))?;
    let second = (second * f64::from(step.second_correction))?.sqrt()?;
    let decayed = (&parameter * f64::from(step.weight_decay))?;
    let update = ((first / (second + f64::from(step.epsilon))?)? + decayed)?;
    let length = step.length(sum_of_squares(&parameter)?, sum_of_squares(&update)?);
    let moved = (&parameter - (update * f64::from(length))?)?;
    parameter.slice_set(&moved, 0, 0)
}

impl LambStep {
    /// Returns the factor of the update, from the sums of squares of parameter and update.
    fn length(&self, parameter: f64, update: f64) -> f32 {
        let both = parameter > 0.0 && update > 0.0;
        let ratio = if both {
            (parameter / update).sqrt()
        } else {
            1.0
        };
        ratio as f32 * self.learning_rate
    }

    #[inline(always)]
    fn update(&self, parameter: f32, first: f32, second: f32) -> f32 {
        let mean = first * self.first_correction;
        let spread = (second * self.second_correction).sqrt() + self.epsilon;
        mean / spread + self.weight_decay * parameter
    }
}

vectorised! {
    fn update_squares(step: LambStep, parameter: &[f32], first: &[f32], second: &[f32]) -> f64 {
        let mut updates = [0f32; simd::LANES];
        let mut sums = [0f32; simd::LANES];
        let values = parameter.chunks(simd::LANES).zip(first.chunks(simd::LANES).zip(second.chunks(simd::LANES)));
        for (parameter, (first, second)) in values {
            updates.fill(0.0);
            for (update, (parameter, (first, second))) in
                updates.iter_mut().zip(parameter.iter().zip(first.iter().zip(second)))
            {
                *update = step.update(*parameter, *first, *second);
            }
            for (sum, update) in sums.iter_mut().zip(&updates) {
                *sum += update * update;
            }
        }
        sums.into_iter().map(f64::from).sum()
    }

    fn descend(step: LambStep, length: f32, parameter: &mut [f32], first: &[f32], second: &[f32]) {
        for (parameter, (first, second)) in parameter.iter_mut().zip(first.iter().zip(second)) {
            *parameter -= length * step.update(*parameter, *first, *second);
        }
    }
}
