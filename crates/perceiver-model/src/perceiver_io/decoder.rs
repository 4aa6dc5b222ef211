//! The decoder of Perceiver IO's image classifiers: one learned query reads the latents, and a
//! linear layer turns its result into logits.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use perceiver_ops::{Mode, reshape};

use crate::layers::Dense;
use crate::perceiver_io::config::PerceiverIoConfig;
use crate::perceiver_io::layer::{Activation, Layer, dense, folded_dense};

/// The decoder, `[batch, latents, width] -> [batch, labels]`.
#[derive(Debug, Clone)]
pub(crate) struct Decoder {
    query: Tensor, // [1, width]
    attention: Layer,
    head: Dense,
}

impl Decoder {
    pub(crate) fn new(
        config: &PerceiverIoConfig,
        activation: Activation,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let (width, labels) = (config.d_latents, config.num_labels());
        let position = "output_position_encodings.position_embeddings";
        let layer = vb.pp("decoding_cross_attention");
        Ok(Self {
            query: vb.get_with_hints((1, width), position, config.initializer())?,
            attention: Layer::new(config, config.decoder_layer(), activation, &layer)?,
            head: dense(config, [width, labels], &vb.pp("final_layer"))?,
        })
    }

    pub(crate) fn layer_mut(&mut self) -> &mut Layer {
        &mut self.attention
    }

    /// Returns a copy for inference only, with precomputed products of weights. As the query is one,
    /// they replace the projections of all latents to keys and values.
    pub(crate) fn folded(&self) -> Result<Self> {
        Ok(Self {
            attention: self.attention.folded()?,
            head: folded_dense(&self.head)?,
            query: self.query.clone(),
        })
    }

    /// Computes the logits `[batch, labels]` of `latents` `[batch, n, width]`.
    pub(crate) fn forward(&self, latents: &Tensor, mode: Mode) -> Result<Tensor> {
        self.head.forward(&self.read(latents, mode)?)
    }

    /// Computes the input of the final layer, `[batch, width]`: what the query reads of `latents`
    /// `[batch, n, width]`.
    pub(crate) fn read(&self, latents: &Tensor, mode: Mode) -> Result<Tensor> {
        let (batch, _, width) = latents.dims3()?;
        let query = reshape(&self.query, (1, 1, width))?;
        let read = self.attention.forward(&query, Some(latents), mode)?; // [batch, 1, width]
        reshape(&read, (batch, width))
    }
}
