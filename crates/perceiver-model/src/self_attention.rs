//! Multi-head self-attention: Keras's `MultiHeadAttention` of a sequence with itself.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use perceiver_ops::{
    Mode, attention_logits, batched_matmul, dropout, join_heads, softmax, split_heads,
};

use crate::config::PerceiverConfig;
use crate::layers::Dense;

/// `sum_h softmax(q_h k_h^T / sqrt(head width)) v_h`, projected back to the model's width; biases everywhere.
#[derive(Debug, Clone)]
pub(crate) struct SelfAttention {
    query: Dense,
    key: Dense,
    value: Dense,
    output: Dense,
    heads: usize,
    head_width: usize,
    attention_dropout: f64,
}

impl SelfAttention {
    pub(crate) fn new(config: &PerceiverConfig, vb: &VarBuilder) -> Result<Self> {
        let width = config.projection_dim;
        let inner = config.num_heads * config.head_width();
        Ok(Self {
            query: Dense::new(width, inner, &vb.pp("query"))?,
            key: Dense::new(width, inner, &vb.pp("key"))?,
            value: Dense::new(width, inner, &vb.pp("value"))?,
            output: Dense::new(inner, width, &vb.pp("output"))?,
            heads: config.num_heads,
            head_width: config.head_width(),
            attention_dropout: config.attention_dropout,
        })
    }

    /// `[batch, latents, width] -> [batch, latents, width]`
    pub(crate) fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let queries = split_heads(&self.query.forward(x)?, self.heads)?; // [batch, heads, latents, head_width]
        let keys = split_heads(&self.key.forward(x)?, self.heads)?;
        let values = split_heads(&self.value.forward(x)?, self.heads)?;
        let scale = 1.0 / (self.head_width as f64).sqrt();
        let logits = attention_logits(&queries, &keys, scale)?; // [batch, heads, latents, latents]
        let probabilities = dropout(&softmax(&logits)?, self.attention_dropout, mode)?;
        let read = batched_matmul(&probabilities, &values)?; // [batch, heads, latents, head_width]
        self.output.forward(&join_heads(&read)?)
    }
}
