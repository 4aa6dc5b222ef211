//! Hooks on the stages of a forward pass.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// A callback that receives the tensor of every [`Stage`].
pub type Probe<'a> = dyn FnMut(Stage, &Tensor) + 'a;

/// The features of an image: what a model computes before its head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Features {
    /// The input of the head, `[batch, width]`. In the Perceiver, it is [`Stage::Pooled`]; in
    /// Perceiver IO, what the decoder's query reads, the input of the final layer.
    #[default]
    Pooled,
    /// The latents after the last self-attention, `[batch, latents, width]`.
    Latents,
}

/// A point in the forward pass whose tensor can be observed; iterations count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The data array, `[batch, tokens, width]`.
    Encoded,
    /// The cross-attention logits of an iteration: `[batch, heads, latents, tokens]`.
    CrossAttentionLogits(usize),
    /// The cross-attention weights of an iteration before dropout, averaged over heads:
    /// `[batch, latents, tokens]`.
    CrossAttentionMap(usize),
    /// The latents after cross-attention, `[batch, latents, width]`.
    CrossAttention(usize),
    /// The self-attention logits of a transformer block: `[batch, heads, latents, latents]`.
    SelfAttentionLogits {
        /// The iteration.
        iteration: usize,
        /// The block, from 0.
        block: usize,
    },
    /// The latents after the latent transformer, `[batch, latents, width]`.
    Transformer(usize),
    /// The mean over the latents, normalized if configured, `[batch, width]`.
    Pooled,
    /// The logits, `[batch, classes]`.
    Logits,
}

/// Passes a tensor to the probe, if there is one.
pub(crate) fn show(probe: &mut Option<&mut Probe>, stage: Stage, tensor: &Tensor) {
    if let Some(probe) = probe {
        probe(stage, tensor);
    }
}
