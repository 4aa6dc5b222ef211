//! The two layers everything is made of, with Keras's initialisation.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use perceiver_ops::{Mode, layer_norm, linear, linear_gelu, linear_onto};

/// A fully connected layer `y = x W^T + b`: Keras's `Dense`, with the kernel stored transposed, `[outputs, inputs]`, as
/// candle and PyTorch do.
#[derive(Debug, Clone)]
pub(crate) struct Dense {
    pub(crate) weight: Tensor, // [outputs, inputs]
    pub(crate) bias: Tensor,   // [outputs]
}

impl Dense {
    /// The weight starts Glorot-uniform (limit `sqrt(6 / (inputs + outputs))`), the bias at 0.
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

    /// Weight and bias.
    pub(crate) fn tensors(&self) -> [&Tensor; 2] {
        [&self.weight, &self.bias]
    }

    pub(crate) fn tensors_mut(&mut self) -> [&mut Tensor; 2] {
        [&mut self.weight, &mut self.bias]
    }

    /// `[..., inputs] -> [..., outputs]`
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        linear(x, &self.weight, &self.bias)
    }

    /// The same, followed by GELU.
    /// [`Dense::forward`] of a branch, of which dropout takes its part, added to `x`.
    pub(crate) fn forward_onto(
        &self,
        x: &Tensor,
        branch: &Tensor,
        rate: f64,
        mode: Mode,
    ) -> Result<Tensor> {
        linear_onto(x, branch, self.tensors(), rate, mode)
    }

    pub(crate) fn forward_gelu(&self, x: &Tensor) -> Result<Tensor> {
        linear_gelu(x, &self.weight, &self.bias)
    }
}

/// Layer norm over the last dimension, gain starting at 1 and shift at 0.
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

    /// `[..., width] -> [..., width]`
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, &self.gamma, &self.beta, self.epsilon)
    }
}
