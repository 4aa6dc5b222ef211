//! An in-place SGD step of one parameter, with momentum in Keras's form.
//!
//! `v = momentum * v - rate * g`, then `w += v`, or with Nesterov momentum
//! `w += momentum * v - rate * g` (Sutskever et al., "On the importance of initialization and
//! momentum in deep learning", 2013).

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::in_place;
use crate::cpu::simd::vectorised;
use crate::cpu::{self, TASK};

/// Hyperparameters of an SGD step, the same for all parameters.
#[derive(Clone, Copy, Debug)]
pub struct SgdStep {
    /// Learning rate.
    pub learning_rate: f32,
    /// Momentum: the fraction of its velocity that a parameter keeps.
    pub momentum: f32,
    /// Whether to use Nesterov momentum.
    pub nesterov: bool,
}

/// Updates `velocity`, then `parameter`, both of one shape and in place: clones share the change.
///
/// # Errors
/// When the shapes differ or a tensor is not contiguous.
pub fn sgd_step(
    parameter: &Tensor,
    velocity: &Tensor,
    gradient: &Tensor,
    step: SgdStep,
) -> Result<()> {
    let tensors = [parameter, velocity, gradient];
    let dims = tensors.map(Tensor::dims);
    if dims.iter().any(|dims| *dims != parameter.dims()) {
        bail!("sgd: expected a parameter, a velocity and a gradient of one shape, found {dims:?}");
    }
    if !tensors.into_iter().all(cpu::has_kernels) {
        return sgd_step_composed(parameter, velocity, gradient, step);
    }
    let gradient = gradient.contiguous()?;
    in_place::change_by_one("sgd", velocity, &gradient, |velocity, gradient| {
        velocity
            .par_chunks_mut(TASK)
            .zip(gradient.par_chunks(TASK))
            .for_each(|(velocity, gradient)| accelerate(step, velocity, gradient));
    })?;
    let others = [velocity, &gradient];
    in_place::change_by_two("sgd", parameter, others, |parameter, velocity, gradient| {
        parameter
            .par_chunks_mut(TASK)
            .zip(velocity.par_chunks(TASK).zip(gradient.par_chunks(TASK)))
            .for_each(|(parameter, (velocity, gradient))| {
                descend(step, parameter, velocity, gradient);
            });
    })
}

/// Computes [`sgd_step`] by candle's operations: the fallback for devices without a kernel, and the
/// reference in tests.
///
/// # Errors
/// As for [`sgd_step`].
pub fn sgd_step_composed(
    parameter: &Tensor,
    velocity: &Tensor,
    gradient: &Tensor,
    step: SgdStep,
) -> Result<()> {
    let flat = |tensor: &Tensor| tensor.detach().flatten_all();
    let (momentum, rate) = (f64::from(step.momentum), f64::from(step.learning_rate));
    let [parameter, velocity, gradient] = [flat(parameter)?, flat(velocity)?, flat(gradient)?];
    let pull = (gradient * rate)?;
    let moved = ((&velocity * momentum)? - &pull)?;
    velocity.slice_set(&moved, 0, 0)?;
    let change = if step.nesterov {
        ((moved * momentum)? - pull)?
    } else {
        moved
    };
    parameter.slice_set(&(&parameter + change)?, 0, 0)
}

vectorised! {
    fn accelerate(step: SgdStep, velocity: &mut [f32], gradient: &[f32]) {
        for (velocity, gradient) in velocity.iter_mut().zip(gradient) {
            *velocity = *velocity * step.momentum - gradient * step.learning_rate;
        }
    }

    fn descend(step: SgdStep, parameter: &mut [f32], velocity: &[f32], gradient: &[f32]) {
        for (parameter, (velocity, gradient)) in parameter.iter_mut().zip(velocity.iter().zip(gradient)) {
            *parameter += if step.nesterov {
                velocity * step.momentum - gradient * step.learning_rate
            } else {
                *velocity
            };
        }
    }
}
