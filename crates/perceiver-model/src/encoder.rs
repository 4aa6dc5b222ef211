//! The patch encoder: a linear projection of every patch plus a learned position.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use perceiver_ops::add_bias;

use crate::config::PerceiverConfig;
use crate::layers::Dense;

/// Keras's `Embedding` starts uniform in ±0.05.
const POSITION_LIMIT: f64 = 0.05;

/// Makes the data array of an image's patches.
#[derive(Debug, Clone)]
pub(crate) struct PatchEncoder {
    projection: Dense,
    positions: Tensor, // [tokens, width]
}

impl PatchEncoder {
    pub(crate) fn new(config: &PerceiverConfig, vb: &VarBuilder) -> Result<Self> {
        let width = config.projection_dim;
        let uniform = Init::Uniform {
            lo: -POSITION_LIMIT,
            up: POSITION_LIMIT,
        };
        Ok(Self {
            projection: Dense::new(config.patch_len(), width, &vb.pp("projection"))?,
            positions: vb.get_with_hints((config.num_patches(), width), "positions", uniform)?,
        })
    }

    /// `[batch, tokens, patch_len] -> [batch, tokens, width]`
    pub(crate) fn forward(&self, patches: &Tensor) -> Result<Tensor> {
        add_bias(&self.projection.forward(patches)?, &self.positions)
    }
}
