//! Cross-attention of the latents to the data array.
//!
//! With one head, `l = LN(latents)` and `d = LN(data)`, it computes
//! `a = softmax(scale * q(l) k(d)^T) v(d) + l` and `h = LN(a)`, and returns `FFN(h) + h`. Three
//! things are particular to the Keras example: a learned scalar in place of `1 / sqrt(width)`, a
//! first residual that adds the *normalized* latents, and a second that adds the normalized sum.
//! Several heads split the width, and an output projection follows, as in Keras's
//! `MultiHeadAttention`.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use perceiver_ops::{
    AbsorbedWeights, Attention, Mode, Projections, absorbed_attention_residual, add_dropout,
    attention, expand_batch, multiply_scalar,
};

use crate::attention::form::{AttentionCost, AttentionForm};
use crate::attention::logits::{absorbed_logits, logits};
use crate::config::PerceiverConfig;
use crate::config::sharing::WeightSet;
use crate::layers::feed_forward::FeedForward;
use crate::layers::{Dense, LayerNorm};

/// A cross-attention layer followed by a feed-forward network.
#[derive(Debug, Clone)]
pub(crate) struct CrossAttention {
    norm_latents: LayerNorm,
    norm_data: LayerNorm,
    query: Dense,
    key: Dense,
    value: Dense,
    output: Option<Dense>,
    heads: usize,
    scale: Tensor, // a scalar
    norm_output: LayerNorm,
    ffn: FeedForward,
    attention_dropout: f64,
    form: AttentionForm,
    absorbed: Option<AbsorbedWeights>,
}

/// The keys and values that all iterations share.
#[derive(Debug)]
pub(crate) enum Source {
    /// Keys and values of the data, both `[batch, tokens, width]`.
    Projected { keys: Tensor, values: Tensor },
    /// In absorbed form, the normalized data, `[batch, tokens, width]`, and the absorbed
    /// projections.
    Tokens {
        tokens: Tensor,
        weights: AbsorbedWeights,
    },
}

impl CrossAttention {
    /// Builds the layer; it reads the same data `reads` times.
    pub(crate) fn new(config: &PerceiverConfig, reads: usize, vb: &VarBuilder) -> Result<Self> {
        let width = config.projection_dim;
        let norm = |name: &str| LayerNorm::new(width, config.layer_norm_epsilon, &vb.pp(name));
        let projection = |name: &str| Dense::new(width, width, &vb.pp(name));
        let scale = Init::Const(config.first_cross_scale());
        Ok(Self {
            norm_latents: norm("norm_latents")?,
            norm_data: norm("norm_data")?,
            query: projection("query")?,
            key: projection("key")?,
            value: projection("value")?,
            output: match config.num_cross_heads {
                1 => None,
                _ => Some(projection("output")?),
            },
            heads: config.num_cross_heads,
            scale: vb.get_with_hints((), "scale", scale)?,
            norm_output: norm("norm_output")?,
            ffn: FeedForward::new(width, &config.ffn_units, config.dropout_rate, &vb.pp("ffn"))?,
            attention_dropout: config.attention_dropout,
            form: Self::cost(config, reads).cheaper_form(),
            absorbed: None,
        })
    }

    pub(crate) fn cost(config: &PerceiverConfig, reads: usize) -> AttentionCost {
        AttentionCost {
            queries: config.latent_dim,
            tokens: config.num_patches(),
            width: config.projection_dim,
            heads: config.num_cross_heads,
            head_width: config.cross_head_width(),
            reads,
            projects_output: config.num_cross_heads > 1,
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
                output: self.output.as_ref().map(Dense::tensors),
                scale: Some(&self.scale),
            };
            ready.absorbed = Some(projections.absorb()?);
        }
        Ok(ready)
    }

    /// Computes the source of `data` `[batch, tokens, width]` for all iterations.
    pub(crate) fn source(&self, data: &Tensor) -> Result<Source> {
        let tokens = self.norm_data.forward(data)?;
        Ok(match &self.absorbed {
            Some(weights) => Source::Tokens {
                tokens,
                weights: weights.clone(),
            },
            None => Source::Projected {
                keys: self.key.forward(&tokens)?,
                values: self.value.forward(&tokens)?,
            },
        })
    }

    /// Attends from `latents` `[batch or 1, latents, width]` to the source:
    /// `[batch, latents, width]`.
    pub(crate) fn forward(&self, latents: &Tensor, source: &Source, mode: Mode) -> Result<Tensor> {
        let latents = self.norm_latents.forward(latents)?;
        let latents = expand_batch(&latents, source.batch()?)?; // [batch, latents, width]
        let how = Attention {
            heads: self.heads,
            scale: 1.0,
            dropout: self.attention_dropout,
            mode: mode.child(0),
        };
        let sum = match source {
            Source::Projected { keys, values } => {
                let read = attention(&self.queries(&latents)?, keys, values, how)?;
                match &self.output {
                    Some(output) => {
                        output.forward_residual(&latents, &read, 0.0, Mode::Inference)?
                    }
                    None => add_dropout(&latents, &read, 0.0, Mode::Inference)?,
                }
            }
            Source::Tokens { tokens, weights } => {
                absorbed_attention_residual(&latents, &latents, tokens, weights, how)?
            }
        };
        let hidden = self.norm_output.forward(&sum)?;
        self.ffn.forward_residual(&hidden, &hidden, mode.child(1))
    }

    /// Returns the attention logits of `latents` `[batch or 1, latents, width]`:
    /// `[batch, heads, latents, tokens]`.
    pub(crate) fn logits(&self, latents: &Tensor, source: &Source) -> Result<Tensor> {
        let latents = self.norm_latents.forward(latents)?;
        let latents = expand_batch(&latents, source.batch()?)?; // [batch, latents, width]
        match source {
            Source::Projected { keys, .. } => logits(&self.queries(&latents)?, keys, self.heads),
            Source::Tokens { tokens, weights } => {
                absorbed_logits(&latents, tokens, weights, self.heads)
            }
        }
    }

    /// Projects and scales: `[batch, latents, width] -> [batch, latents, width]`. There are fewer
    /// queries than logits to scale.
    fn queries(&self, latents: &Tensor) -> Result<Tensor> {
        multiply_scalar(&self.query.forward(latents)?, &self.scale)
    }
}

impl PerceiverConfig {
    /// Returns the form of each cross-attention that takes fewer multiply-adds, by its set of
    /// weights.
    pub fn cross_attention_forms(&self) -> Vec<AttentionForm> {
        WeightSet::of_cross_attention(self)
            .iter()
            .map(|set| CrossAttention::cost(self, set.iterations).cheaper_form())
            .collect()
    }
}

impl Source {
    fn batch(&self) -> Result<usize> {
        match self {
            Self::Projected { keys, .. } => keys.dim(0),
            Self::Tokens { tokens, .. } => tokens.dim(0),
        }
    }
}
