//! Cross attention: the latents read from the data array.
//!
//! With `l = LN(latents)`, `d = LN(data)`: `a = softmax(scale * q(l) k(d)^T) v(d) + l`, then `h = LN(a)`, and the result is
//! `FFN(h) + h`. Three things are the Keras example's own: one learned scalar in place of `1 / sqrt(width)`, a first
//! residual that adds the *normalized* latents, and a second one that adds the normalized sum.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use perceiver_ops::{
    Attention, Mode, attention, attention_logits, expand_batch, multiply_scalar, softmax,
};

use crate::absorbed::{Absorbed, Projections};
use crate::attention_form::{AttentionCost, AttentionForm};
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
    form: AttentionForm,
    absorbed: Option<Absorbed>,
}

/// What all iterations read: keys and values of a data array, or in absorbed form the normalized data array as both.
#[derive(Debug)]
pub(crate) struct ProjectedData {
    keys: Tensor,   // [batch, tokens, width]
    values: Tensor, // [batch, tokens, width]
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
            form: Self::cost(config).cheaper_form(),
            absorbed: None,
        })
    }

    pub(crate) fn cost(config: &PerceiverConfig) -> AttentionCost {
        AttentionCost {
            queries: config.latent_dim,
            tokens: config.num_patches(),
            width: config.projection_dim,
            heads: 1,
            head_width: config.projection_dim,
            reads: config.num_iterations,
            projects_output: false,
        }
    }

    pub(crate) fn set_form(&mut self, form: AttentionForm) {
        self.form = form;
    }

    /// The same layer with the products of its weights at hand, where its form asks for them.
    pub(crate) fn absorb(&self) -> Result<Self> {
        let mut ready = self.clone();
        if self.form == AttentionForm::Absorbed && self.absorbed.is_none() {
            ready.absorbed = Some(Absorbed::new(Projections {
                heads: 1,
                query: &self.query,
                key: &self.key,
                value: &self.value,
                output: None,
            })?);
        }
        Ok(ready)
    }

    /// [`CrossAttention::absorb`] outside any graph.
    pub(crate) fn fold(&self) -> Result<Self> {
        let mut ready = self.absorb()?;
        ready.absorbed = ready.absorbed.as_ref().map(Absorbed::detach);
        Ok(ready)
    }

    /// What every iteration reads of `data` `[batch, tokens, width]`.
    pub(crate) fn project(&self, data: &Tensor) -> Result<ProjectedData> {
        let data = self.norm_data.forward(data)?;
        Ok(match self.absorbed {
            Some(_) => ProjectedData {
                keys: data.clone(),
                values: data,
            },
            None => ProjectedData {
                keys: self.key.forward(&data)?,
                values: self.value.forward(&data)?,
            },
        })
    }

    /// Lets `latents` `[batch or 1, latents, width]` read from the data: `[batch, latents, width]`.
    pub(crate) fn forward(
        &self,
        latents: &Tensor,
        data: &ProjectedData,
        mode: Mode,
    ) -> Result<Tensor> {
        let latents = self.norm_latents.forward(latents)?;
        let queries = self.queries(&latents, data)?;
        let latents = expand_batch(&latents, queries.dim(0)?)?; // [batch, latents, width]
        let how = Attention {
            heads: 1,
            scale: 1.0,
            dropout: self.attention_dropout,
            mode: mode.child(0),
            append_sums: self.absorbed.is_some(),
        };
        let mut read = attention(&queries, &data.keys, &data.values, how)?;
        if let Some(absorbed) = &self.absorbed {
            read = absorbed.output.forward(&read)?; // [batch, latents, width]
        }
        let hidden = self.norm_output.forward(&(read + latents)?)?;
        self.ffn.forward(&hidden, mode.child(1))? + hidden
    }

    /// Where each of `latents` `[batch or 1, latents, width]` looks: `[batch, latents, tokens]`, rows summing to 1.
    pub(crate) fn map(&self, latents: &Tensor, data: &ProjectedData) -> Result<Tensor> {
        let queries = self.queries(&self.norm_latents.forward(latents)?, data)?;
        softmax(&attention_logits(&queries, &data.keys, 1.0)?)
    }

    /// Queries of normalized latents, for every image: `[batch, latents, width]`. The scale is on them, who are fewer
    /// than the logits.
    fn queries(&self, latents: &Tensor, data: &ProjectedData) -> Result<Tensor> {
        let query = self.absorbed.as_ref().map_or(&self.query, |a| &a.query);
        let queries = multiply_scalar(&query.forward(latents)?, &self.scale)?;
        expand_batch(&queries, data.keys.dim(0)?)
    }
}
