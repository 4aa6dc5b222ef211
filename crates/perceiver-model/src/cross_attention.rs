//! Cross attention: the latents read from the data array.
//!
//! With `l = LN(latents)`, `d = LN(data)`: `a = softmax(scale * q(l) k(d)^T) v(d) + l`, then `h = LN(a)`, and the result is
//! `FFN(h) + h`. Three things are the Keras example's own: one learned scalar in place of `1 / sqrt(width)`, a first
//! residual that adds the *normalized* latents, and a second one that adds the normalized sum.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use perceiver_ops::{
    Mode, attention_logits, batched_matmul, dropout, expand_batch, multiply_scalar, softmax,
};

use crate::config::PerceiverConfig;
use crate::feed_forward::FeedForward;
use crate::layers::{Dense, LayerNorm};

/// One head of attention from latents to data, with a feed-forward network behind it.
#[derive(Debug, Clone)]
pub(crate) struct CrossAttention {
    norm_latents: LayerNorm,
    norm_data: LayerNorm,
    query: Dense,
    key: Dense,
    value: Dense,
    scale: Tensor, // a scalar
    norm_output: LayerNorm,
    ffn: FeedForward,
    attention_dropout: f64,
}

/// Keys and values of a data array. They are the same in every iteration, so they are computed once.
#[derive(Debug)]
pub(crate) struct ProjectedData {
    keys: Tensor,   // [batch, tokens, width]
    values: Tensor, // [batch, tokens, width]
}

/// What cross attention computes.
pub(crate) struct Attended {
    /// The new latents, `[batch, latents, width]`.
    pub(crate) latents: Tensor,
    /// Where each latent looked: `[batch, latents, tokens]`, rows summing to 1, before dropout.
    pub(crate) probabilities: Tensor,
}

impl CrossAttention {
    pub(crate) fn new(config: &PerceiverConfig, vb: &VarBuilder) -> Result<Self> {
        let width = config.projection_dim;
        let norm = |name: &str| LayerNorm::new(width, config.layer_norm_epsilon, &vb.pp(name));
        let projection = |name: &str| Dense::new(width, width, &vb.pp(name));
        let scale = Init::Const(config.cross_attention_scale);
        Ok(Self {
            norm_latents: norm("norm_latents")?,
            norm_data: norm("norm_data")?,
            query: projection("query")?,
            key: projection("key")?,
            value: projection("value")?,
            scale: vb.get_with_hints((), "scale", scale)?,
            norm_output: norm("norm_output")?,
            ffn: FeedForward::new(width, &config.ffn_units, config.dropout_rate, &vb.pp("ffn"))?,
            attention_dropout: config.attention_dropout,
        })
    }

    /// Keys and values of `data` `[batch, tokens, width]`.
    pub(crate) fn project(&self, data: &Tensor) -> Result<ProjectedData> {
        let data = self.norm_data.forward(data)?;
        Ok(ProjectedData {
            keys: self.key.forward(&data)?,
            values: self.value.forward(&data)?,
        })
    }

    /// Lets `latents` `[batch or 1, latents, width]` read from the data.
    pub(crate) fn forward(
        &self,
        latents: &Tensor,
        data: &ProjectedData,
        mode: Mode,
    ) -> Result<Attended> {
        let batch = data.keys.dim(0)?;
        let latents = self.norm_latents.forward(latents)?;
        // The scale on the queries, which are fewer than the logits.
        let queries = multiply_scalar(&self.query.forward(&latents)?, &self.scale)?;
        let queries = expand_batch(&queries, batch)?; // [batch, latents, width]
        let latents = expand_batch(&latents, batch)?; // [batch, latents, width]
        let logits = attention_logits(&queries, &data.keys, 1.0)?; // [batch, latents, tokens]
        let probabilities = softmax(&logits)?;
        let kept = dropout(&probabilities, self.attention_dropout, mode.child(0))?;
        let read = batched_matmul(&kept, &data.values)?; // [batch, latents, width]
        let hidden = self.norm_output.forward(&(read + latents)?)?;
        let latents = (self.ffn.forward(&hidden, mode.child(1))? + hidden)?;
        Ok(Attended {
            latents,
            probabilities,
        })
    }
}
