//! Dense and layer norm layers, with Keras's initialization.

pub(crate) mod feed_forward;
pub(crate) mod patches;
pub(crate) mod positions;
pub(crate) mod resize_positions;
pub(crate) mod stem;

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use perceiver_ops::{Mode, layer_norm, linear, linear_gelu, linear_residual};

/// A fully connected layer `y = x W^T + b`: Keras's `Dense` with the kernel transposed,
/// `[outputs, inputs]`, as in candle and PyTorch.
#[derive(Debug, Clone)]
pub(crate) struct Dense {
    pub(crate) weight: Tensor, // [outputs, inputs]
    pub(crate) bias: Tensor,   // [outputs]
}

impl Dense {
    /// Creates a layer with Glorot-uniform weight (limit `sqrt(6 / (inputs + outputs))`) and zero
    /// bias.
    pub(crate) fn new(inputs: usize, outputs: usize, vb: &VarBuilder) -> Result<Self> {
        let limit = (6.0 / (inputs + outputs) as f64).sqrt();
        let glorot = Init::Uniform {
            lo: -limit,
            up: limit,
        };
        Ok(Self {
            weight: vb.get_with_hints((outputs, inputs), "weight", glorot)?,
            bias: vb.get_with_hints(outputs, "bias", Init::Const(0.0))?,
        })
    }

    /// Returns weight and bias.
    pub(crate) fn tensors(&self) -> [&Tensor; 2] {
        [&self.weight, &self.bias]
    }

    pub(crate) fn tensors_mut(&mut self) -> [&mut Tensor; 2] {
        [&mut self.weight, &mut self.bias]
    }

    /// Applies the layer: `[..., inputs] -> [..., outputs]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        linear(x, &self.weight, &self.bias)
    }

    /// Adds dropout of [`Dense::forward`] of `branch` to `x`.
    pub(crate) fn forward_residual(
        &self,
        x: &Tensor,
        branch: &Tensor,
        rate: f64,
        mode: Mode,
    ) -> Result<Tensor> {
        linear_residual(x, branch, self.tensors(), rate, mode)
    }

    /// Applies the layer, followed by GELU.
    pub(crate) fn forward_gelu(&self, x: &Tensor) -> Result<Tensor> {
        linear_gelu(x, &self.weight, &self.bias)
    }
}

/// Layer norm over the last dimension; the gain starts at 1 and the shift at 0.
#[derive(Debug, Clone)]
pub(crate) struct LayerNorm {
    gamma: Tensor,
    beta: Tensor,
    epsilon: f64,
}

impl LayerNorm {
    pub(crate) fn new(width: usize, epsilon: f64, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            gamma: vb.get_with_hints(width, "weight", Init::Const(1.0))?,
            beta: vb.get_with_hints(width, "bias", Init::Const(0.0))?,
            epsilon,
        })
    }

    pub(crate) fn tensors_mut(&mut self) -> [&mut Tensor; 2] {
        [&mut self.gamma, &mut self.beta]
    }

    /// Normalizes: `[..., width] -> [..., width]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, &self.gamma, &self.beta, self.epsilon)
    }
}
