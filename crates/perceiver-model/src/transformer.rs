//! The latent transformer: pre-norm residual blocks over the latents.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use perceiver_ops::{Mode, recompute};

use crate::attention::form::AttentionForm;
use crate::attention::self_attention::SelfAttention;
use crate::config::PerceiverConfig;
use crate::layers::LayerNorm;
use crate::layers::feed_forward::FeedForward;

/// A pre-norm residual block: self-attention and a feed-forward network.
#[derive(Debug, Clone)]
struct Block {
    norm_attention: LayerNorm,
    attention: SelfAttention,
    norm_ffn: LayerNorm,
    ffn: FeedForward,
}

impl Block {
    fn new(config: &PerceiverConfig, vb: &VarBuilder) -> Result<Self> {
        let width = config.projection_dim;
        let norm = |name: &str| LayerNorm::new(width, config.layer_norm_epsilon, &vb.pp(name));
        Ok(Self {
            norm_attention: norm("norm_attention")?,
            attention: SelfAttention::new(config, &vb.pp("attention"))?,
            norm_ffn: norm("norm_ffn")?,
            ffn: FeedForward::new(width, &config.ffn_units, config.dropout_rate, &vb.pp("ffn"))?,
        })
    }

    /// Returns the tensors that a forward pass uses.
    fn tensors_mut(&mut self) -> Vec<&mut Tensor> {
        let mut tensors = self.attention.tensors_mut();
        tensors.extend(self.norm_attention.tensors_mut());
        tensors.extend(self.norm_ffn.tensors_mut());
        tensors.extend(self.ffn.tensors_mut());
        tensors
    }

    /// Runs [`Block::forward`] with activation checkpointing: the backward pass keeps only the
    /// input.
    fn forward_recomputed(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let block = self.clone();
        let mut own = self.clone();
        let tensors: Vec<&Tensor> = own
            .tensors_mut()
            .into_iter()
            .map(|tensor| &*tensor)
            .collect();
        recompute(x, &tensors, move |x, tensors| {
            let mut block = block.clone();
            for (own, given) in block.tensors_mut().into_iter().zip(tensors) {
                *own = given.clone();
            }
            block.forward(x, mode)
        })
    }

    /// Returns the attention logits: `[batch, heads, latents, latents]`.
    fn logits(&self, x: &Tensor) -> Result<Tensor> {
        self.attention.logits(&self.norm_attention.forward(x)?)
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let normalized = self.norm_attention.forward(x)?;
        let x = self
            .attention
            .forward_residual(x, &normalized, mode.child(0))?;
        let normalized = self.norm_ffn.forward(&x)?;
        self.ffn.forward_residual(&x, &normalized, mode.child(1))
    }
}

/// A callback that receives every block's index and attention logits
/// `[batch, heads, latents, latents]`.
pub(crate) type LogitsHook<'a> = dyn FnMut(usize, &Tensor) + 'a;

/// A sequence of blocks.
#[derive(Debug, Clone)]
pub(crate) struct Transformer {
    blocks: Vec<Block>,
    recomputes: bool,
}

impl Transformer {
    pub(crate) fn new(config: &PerceiverConfig, vb: &VarBuilder) -> Result<Self> {
        let blocks = (0..config.num_transformer_blocks)
            .map(|index| Block::new(config, &vb.pp(index)))
            .collect::<Result<_>>()?;
        Ok(Self {
            blocks,
            recomputes: false,
        })
    }

    pub(crate) fn set_recomputation(&mut self, recomputes: bool) {
        self.recomputes = recomputes;
    }

    pub(crate) fn set_form(&mut self, form: AttentionForm) {
        for block in &mut self.blocks {
            block.attention.set_form(form);
        }
    }

    /// Returns a copy with precomputed weight products, valid for as many passes as these weights
    /// are used.
    pub(crate) fn absorb(&self) -> Result<Self> {
        let absorb = |block: &Block| {
            Ok(Block {
                attention: block.attention.absorb()?,
                ..block.clone()
            })
        };
        Ok(Self {
            blocks: self.blocks.iter().map(absorb).collect::<Result<_>>()?,
            ..*self
        })
    }

    /// Applies the blocks: `[batch, latents, width] -> [batch, latents, width]`. `hook` receives
    /// every block's index and attention logits.
    pub(crate) fn forward(
        &self,
        latents: &Tensor,
        mode: Mode,
        mut hook: Option<&mut LogitsHook>,
    ) -> Result<Tensor> {
        let mut x = latents.clone();
        for (number, block) in self.blocks.iter().enumerate() {
            if let Some(hook) = hook.as_mut() {
                hook(number, &block.logits(&x)?);
            }
            let mode = mode.child(number as u64);
            x = if self.recomputes {
                block.forward_recomputed(&x, mode)?
            } else {
                block.forward(&x, mode)?
            };
        }
        Ok(x)
    }
}
