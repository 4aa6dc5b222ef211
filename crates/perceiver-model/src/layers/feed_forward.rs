//! The feed-forward network of the Keras example: GELU after every layer but the last, dropout
//! after the last.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use perceiver_ops::{Mode, dropout};

use crate::layers::Dense;

/// A stack of fully connected layers. The classification head is one too, so dropout applies to the
/// logits in training, as in the example.
#[derive(Debug, Clone)]
pub(crate) struct FeedForward {
    hidden: Vec<Dense>,
    last: Dense,
    dropout_rate: f64,
}

impl FeedForward {
    /// Creates layers of widths `units`, which must not be empty, on inputs of width `inputs`.
    pub(crate) fn new(
        inputs: usize,
        units: &[usize],
        dropout_rate: f64,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let mut width = inputs;
        let mut layers = Vec::with_capacity(units.len());
        for (index, &outputs) in units.iter().enumerate() {
            layers.push(Dense::new(width, outputs, &vb.pp(index))?);
            width = outputs;
        }
        let Some(last) = layers.pop() else {
            candle_core::bail!("a feed-forward network needs at least one layer");
        };
        Ok(Self {
            hidden: layers,
            last,
            dropout_rate,
        })
    }

    pub(crate) fn tensors_mut(&mut self) -> Vec<&mut Tensor> {
        let layers = self.hidden.iter_mut().chain([&mut self.last]);
        layers.flat_map(Dense::tensors_mut).collect()
    }

    /// Applies the network: `[..., inputs] -> [..., units.last()]`.
    pub(crate) fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let last = self.last.forward(&self.before_last(x)?)?;
        dropout(&last, self.dropout_rate, mode)
    }

    /// Applies the network to `x` and adds the result to `residual`.
    pub(crate) fn forward_residual(
        &self,
        residual: &Tensor,
        x: &Tensor,
        mode: Mode,
    ) -> Result<Tensor> {
        let x = self.before_last(x)?;
        self.last
            .forward_residual(residual, &x, self.dropout_rate, mode)
    }

    fn before_last(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for layer in &self.hidden {
            x = layer.forward_gelu(&x)?;
        }
        Ok(x)
    }
}
