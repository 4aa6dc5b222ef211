//! Optimizer steps over many parameters at once.

pub(crate) mod adam;
pub(crate) mod ema;
#[cfg(feature = "cuda")]
mod gpu;
pub(crate) mod grad_norm;
pub(crate) mod lamb;
pub(crate) mod multi_tensor;
pub(crate) mod muon;
pub(crate) mod sgd;
pub(crate) mod weight_decay;

use candle_core::Tensor;

/// A parameter with its optimizer state and gradient, all of one shape. Parameter and moments are
/// updated in place.
#[derive(Clone, Copy, Debug)]
pub struct ParameterStep<'a, const N: usize> {
    /// The parameter.
    pub parameter: &'a Tensor,
    /// State of the optimizer for it.
    pub moments: &'a [Tensor; N],
    /// Gradient of the loss.
    pub gradient: &'a Tensor,
    /// Fraction of the parameter that decoupled weight decay removes before the update: learning
    /// rate times decay.
    pub decay: f32,
    /// Weight decay in LAMB's update, as [`LambStep::weight_decay`](crate::LambStep::weight_decay).
    pub weight_decay: f32,
}
