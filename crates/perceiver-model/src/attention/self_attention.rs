//! Multi-head self-attention: Keras's `MultiHeadAttention` of a sequence with itself.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use perceiver_ops::{
    AbsorbedWeights, Attention, Mode, Projections, absorbed_attention_residual, attention,
};

use crate::attention::form::{AttentionCost, AttentionForm};
use crate::attention::logits::{absorbed_logits, logits};
use crate::config::PerceiverConfig;
use crate::layers::Dense;

/// A layer `sum_h softmax(q_h k_h^T / sqrt(head width)) v_h`, projected back to the model's width,
/// with biases everywhere.
#[derive(Debug, Clone)]
pub(crate) struct SelfAttention {
    query: Dense,
    key: Dense,
    value: Dense,
    output: Dense,
    heads: usize,
    head_width: usize,
    attention_dropout: f64,
    form: AttentionForm,
    absorbed: Option<AbsorbedWeights>,
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
            form: Self::cost(config).cheaper_form(),
            absorbed: None,
        })
    }

    pub(crate) fn cost(config: &PerceiverConfig) -> AttentionCost {
        AttentionCost {
            queries: config.latent_dim,
            tokens: config.latent_dim,
            width: config.projection_dim,
            heads: config.num_heads,
            head_width: config.head_width(),
            reads: 1,
            projects_output: true,
        }
    }

    pub(crate) fn set_form(&mut self, form: AttentionForm) {
        self.form = form;
    }

    /// Returns a copy with precomputed weight products if its form is absorbed.
    pub(crate) fn absorb(&self) -> Result<Self> {
        let mut ready = self.clone();
        if self.form == AttentionForm::Absorbed && self.absorbed.is_none() {
            let projections = Projections {
                heads: self.heads,
                query: self.query.tensors(),
                key: self.key.tensors(),
                value: self.value.tensors(),
                output: Some(self.output.tensors()),
                scale: None,
            };
            ready.absorbed = Some(projections.absorb()?);
        }
        Ok(ready)
    }

    /// Returns the tensors that a forward pass uses.
    pub(crate) fn tensors_mut(&mut self) -> Vec<&mut Tensor> {
        if let Some(weights) = &mut self.absorbed {
            return weights.tensors_mut();
        }
        let layers = [
            &mut self.query,
            &mut self.key,
            &mut self.value,
            &mut self.output,
        ];
        layers.into_iter().flat_map(Dense::tensors_mut).collect()
    }

    /// Adds the self-attention of `x` to `residual`; all `[batch, latents, width]`.
    pub(crate) fn forward_residual(
        &self,
        residual: &Tensor,
        x: &Tensor,
        mode: Mode,
    ) -> Result<Tensor> {
        let how = Attention {
            heads: self.heads,
            scale: 1.0 / (self.head_width as f64).sqrt(),
            dropout: self.attention_dropout,
            mode,
        };
        if let Some(weights) = &self.absorbed {
            return absorbed_attention_residual(residual, x, x, weights, how);
        }
        let queries = self.query.forward(x)?; // [batch, latents, heads * head_width]
        let (keys, values) = (self.key.forward(x)?, self.value.forward(x)?);
        let read = attention(&queries, &keys, &values, how)?;
        self.output
            .forward_residual(residual, &read, 0.0, Mode::Inference)
    }

    /// Returns the attention logits: `[batch, heads, latents, latents]`.
    pub(crate) fn logits(&self, x: &Tensor) -> Result<Tensor> {
        let logits = match &self.absorbed {
            Some(weights) => absorbed_logits(x, x, weights, self.heads)?,
            None => logits(&self.query.forward(x)?, &self.key.forward(x)?, self.heads)?,
        };
        logits / (self.head_width as f64).sqrt()
    }
}

impl PerceiverConfig {
    /// Returns the form of the self-attentions that takes fewer multiply-adds.
    pub fn self_attention_form(&self) -> AttentionForm {
        SelfAttention::cost(self).cheaper_form()
    }
}
