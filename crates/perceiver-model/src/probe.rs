//! The stages of a forward pass, for those who want to look inside.

use candle_core::Tensor;

/// What is shown the tensor of every [`Stage`] on the way.
pub type Probe<'a> = dyn FnMut(Stage, &Tensor) + 'a;

/// A point in the forward pass whose tensor can be looked at; iterations count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The data array, `[batch, tokens, width]`.
    Encoded,
    /// What cross attention's softmax is over in an iteration: `[batch, heads, latents, tokens]`.
    CrossAttentionLogits(usize),
    /// Where the latents looked in an iteration: probabilities before dropout, the heads' mean, `[batch, latents, tokens]`.
    CrossAttentionMap(usize),
    /// The latents after cross attention, `[batch, latents, width]`.
    CrossAttention(usize),
    /// What the softmax of a transformer block is over: `[batch, heads, latents, latents]`.
    SelfAttentionLogits {
        /// The iteration.
        iteration: usize,
        /// The block, from 0.
        block: usize,
    },
    /// The latents after the latent transformer, `[batch, latents, width]`.
    Transformer(usize),
    /// The mean over the latents, normalized where the configuration says so, `[batch, width]`.
    Pooled,
    /// The class scores, `[batch, classes]`.
    Logits,
}
