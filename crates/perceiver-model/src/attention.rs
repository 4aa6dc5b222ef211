//! Attention modules: cross-attention of latents to tokens, self-attention among latents.

pub(crate) mod cross_attention;
pub(crate) mod form;
pub(crate) mod logits;
pub(crate) mod self_attention;
