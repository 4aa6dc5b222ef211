//! Hooks on the stages of a forward pass.

use candle_core::Tensor;

/// A callback that receives the tensor of every [`Stage`].
pub type Probe<'a> = dyn FnMut(Stage, &Tensor) + 'a;

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
