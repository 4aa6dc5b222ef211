//! The patch encoder: a linear projection of every patch plus its position embedding.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use perceiver_ops::add_bias;

use crate::config::PerceiverConfig;
use crate::layers::Dense;
use crate::layers::positions::PositionRows;

/// The layer from patches to the data array.
#[derive(Debug, Clone)]
pub(crate) struct PatchEncoder {
    projection: Dense,
    positions: PositionRows,
}

impl PatchEncoder {
    pub(crate) fn new(config: &PerceiverConfig, vb: &VarBuilder) -> Result<Self> {
        let width = config.projection_dim;
        Ok(Self {
            projection: Dense::new(config.patch_len(), width, &vb.pp("projection"))?,
            positions: PositionRows::new(config, vb)?,
        })
    }

    /// Returns the position embeddings, `[tokens, width]`.
    pub(crate) fn positions(&self) -> Result<Tensor> {
        self.positions.rows()
    }

    /// Encodes patches: `[batch, tokens, patch_len] -> [batch, tokens, width]`.
    pub(crate) fn forward(&self, patches: &Tensor) -> Result<Tensor> {
        add_bias(&self.projection.forward(patches)?, &self.positions.rows()?)
    }
}
