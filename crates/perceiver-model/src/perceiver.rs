//! The Perceiver: a small array of latents repeatedly reads an array of image patches by
//! cross-attention.
//!
//! Jaegle et al., "Perceiver: General Perception with Iterative Attention", 2021, in the form of
//! the Keras example "Image classification with Perceiver".

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Tensor};
use candle_nn::{Init, ModuleT, VarBuilder};
use perceiver_ops::{Mode, RngKey, mean_pool, reshape, softmax, to_dtype};

use crate::attention::cross_attention::CrossAttention;
use crate::attention::form::AttentionForm;
use crate::classifier::Classifier;
use crate::config::PerceiverConfig;
use crate::config::sharing::WeightSet;
use crate::encoder::PatchEncoder;
use crate::error::{ModelError, Result};
use crate::hooks::{Features, Probe, Stage, show};
use crate::layers::LayerNorm;
use crate::layers::feed_forward::FeedForward;
use crate::layers::patches::{patches, patches_of_map};
use crate::layers::stem::Stem;
use crate::transformer::{LogitsHook, Transformer};

/// The image classifier, `[batch, channels, H, W] -> [batch, classes]`.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::{ModuleT, VarBuilder, VarMap};
/// use perceiver_model::{Perceiver, PerceiverConfig};
///
/// let config = PerceiverConfig { image_size: 8, latent_dim: 4, ..PerceiverConfig::default() };
/// let variables = VarMap::new();
/// let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
/// let model = Perceiver::new(&config, vb)?;
///
/// let images = Tensor::zeros((2, 3, 8, 8), DType::F32, &Device::Cpu)?;
/// let logits = model.forward_t(&images, false)?;
/// assert_eq!(logits.dims(), [2, 100]);
/// # Ok::<(), perceiver_model::ModelError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Perceiver {
    config: PerceiverConfig,
    stem: Stem,
    encoder: PatchEncoder,
    latents: Tensor, // [latents, width]
    /// One per set of weights; so are the transformers.
    cross_attentions: Vec<CrossAttention>,
    transformers: Vec<Transformer>,
    norm_pooled: Option<LayerNorm>,
    head: FeedForward,
    /// Number of training passes through [`ModuleT::forward_t`], which has no argument for a key.
    passes: Arc<AtomicU64>,
}

impl Perceiver {
    /// Builds the model from the weights or initializers that `vb` provides.
    ///
    /// # Errors
    /// When the configuration is invalid, or `vb` lacks a weight or has it in another shape.
    #[allow(clippy::needless_pass_by_value)] // VarBuilders are passed by value throughout candle.
    pub fn new(config: &PerceiverConfig, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let width = config.projection_dim;
        let normal = Init::Randn {
            mean: 0.0,
            stdev: config.latent_deviation,
        };
        let cross_attention = |set: &WeightSet| {
            CrossAttention::new(config, set.iterations, &vb.pp(set.name("cross_attention")))
        };
        let transformer =
            |set: &WeightSet| Transformer::new(config, &vb.pp(set.name("transformer")));
        let head = &config.classifier_units;
        Ok(Self {
            stem: Stem::new(config, &vb.pp("stem"))?,
            encoder: PatchEncoder::new(config, &vb.pp("encoder"))?,
            latents: vb.get_with_hints((config.latent_dim, width), "latents", normal)?,
            cross_attentions: WeightSet::of_cross_attention(config)
                .iter()
                .map(cross_attention)
                .collect::<candle_core::Result<_>>()?,
            transformers: WeightSet::of_transformer(config)
                .iter()
                .map(transformer)
                .collect::<candle_core::Result<_>>()?,
            norm_pooled: config
                .norm_pooled
                .then(|| LayerNorm::new(width, config.layer_norm_epsilon, &vb.pp("norm_pooled")))
                .transpose()?,
            head: FeedForward::new(width, head, config.dropout_rate, &vb.pp("head"))?,
            config: config.clone(),
            passes: Arc::default(),
        })
    }

    /// Returns the architecture.
    pub fn config(&self) -> &PerceiverConfig {
        &self.config
    }

    /// Returns the type of the parameters.
    pub fn dtype(&self) -> DType {
        self.latents.dtype()
    }

    /// Returns the model with every attention in the given form; by default each takes the one with
    /// fewer multiply-adds.
    #[must_use]
    pub fn with_attention_form(mut self, form: AttentionForm) -> Self {
        for cross_attention in &mut self.cross_attentions {
            cross_attention.set_form(form);
        }
        for transformer in &mut self.transformers {
            transformer.set_form(form);
        }
        self
    }

    /// Returns the model with activation checkpointing on or off (the default): the backward pass
    /// keeps only the input of each transformer block and recomputes the rest. It takes less memory
    /// and more time. Values and gradients stay the same.
    #[must_use]
    pub fn with_recomputation(mut self, recomputes: bool) -> Self {
        for transformer in &mut self.transformers {
            transformer.set_recomputation(recomputes);
        }
        self
    }

    /// Returns a copy with precomputed weight products.
    pub(crate) fn folded(&self) -> Result<Self> {
        let cross_attentions = self.cross_attentions.iter().map(CrossAttention::absorb);
        let transformers = self.transformers.iter().map(Transformer::absorb);
        Ok(Self {
            cross_attentions: cross_attentions.collect::<candle_core::Result<_>>()?,
            transformers: transformers.collect::<candle_core::Result<_>>()?,
            ..self.clone()
        })
    }

    /// Computes the logits `[batch, classes]` of preprocessed `images` `[batch, channels, H, W]`.
    ///
    /// In training, `mode` carries the key of this step; equal keys give equal dropout masks.
    /// Activations have the parameters' type; logits are `f32`.
    ///
    /// # Errors
    /// When the shape of the images differs from the configuration.
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.pass(&self.encode(images)?, mode, None)
    }

    /// Computes [`Perceiver::forward`] and passes the tensor of every [`Stage`] to `probe`.
    ///
    /// # Errors
    /// As for [`Perceiver::forward`].
    pub fn forward_probed(&self, images: &Tensor, mode: Mode, probe: &mut Probe) -> Result<Tensor> {
        let data = self.encode(images)?; // [batch, tokens, width]
        probe(Stage::Encoded, &data);
        self.forward_encoded(&data, mode, probe)
    }

    /// Encodes `images` `[batch, channels, H, W]` to the data array: projected patches with their
    /// positions, `[batch, tokens, width]`.
    ///
    /// # Errors
    /// When the shape of the images differs from the configuration.
    pub fn encode(&self, images: &Tensor) -> Result<Tensor> {
        let (channels, image_size) = (self.config.channels, self.config.image_size);
        match images.dims() {
            [_, c, h, w] if [*c, *h, *w] == [channels, image_size, image_size] => {}
            found => {
                return Err(ModelError::ImageShape {
                    channels,
                    image_size,
                    found: found.to_vec(),
                });
            }
        }
        let images = &images.to_dtype(self.dtype())?;
        let patch_size = self.config.patch_size;
        let patches = if self.stem.is_empty() {
            patches(images, patch_size)?
        } else {
            patches_of_map(&self.stem.forward(images)?, patch_size)?
        }; // [batch, tokens, patch_len]
        Ok(self.encoder.forward(&patches)?)
    }

    /// Returns the position embeddings that are added to projected patches: `[tokens, width]`.
    ///
    /// # Errors
    /// When candle refuses an operation.
    pub fn positions(&self) -> Result<Tensor> {
        Ok(self.encoder.positions()?)
    }

    /// Computes the logits of a data array `[batch, tokens, width]`, such as that of
    /// [`Perceiver::encode`]. The order of the tokens does not matter, since they include their
    /// positions.
    ///
    /// # Errors
    /// When candle refuses an operation.
    pub fn forward_encoded(&self, data: &Tensor, mode: Mode, probe: &mut Probe) -> Result<Tensor> {
        self.pass(data, mode, Some(probe))
    }

    /// Computes the features of preprocessed `images` `[batch, channels, H, W]`, in `f32`.
    ///
    /// # Errors
    /// As for [`Perceiver::forward`].
    pub fn features(&self, images: &Tensor, features: Features) -> Result<Tensor> {
        let data = self.encode(images)?;
        let latents = self.latents_of(&data, Mode::Inference, &mut None)?;
        let found = match features {
            Features::Latents => latents,
            Features::Pooled => self.pooled(&latents)?,
        };
        Ok(to_dtype(&found, DType::F32)?)
    }

    /// Runs everything after the encoder. Attention maps are computed only for a probe.
    fn pass(&self, data: &Tensor, mode: Mode, mut probe: Option<&mut Probe>) -> Result<Tensor> {
        let latents = self.latents_of(data, mode, &mut probe)?;
        let pooled = self.pooled(&latents)?;
        show(&mut probe, Stage::Pooled, &pooled);
        let head_mode = mode.child(self.config.num_iterations as u64);
        let logits = self.head.forward(&pooled, head_mode)?; // [batch, classes]
        let logits = to_dtype(&logits, DType::F32)?;
        show(&mut probe, Stage::Logits, &logits);
        Ok(logits)
    }

    /// Runs all iterations on a data array: `[batch, latents, width]`.
    fn latents_of(
        &self,
        data: &Tensor,
        mode: Mode,
        probe: &mut Option<&mut Probe>,
    ) -> Result<Tensor> {
        let probed = probe.is_some();
        let (config, folded) = (&self.config, self.folded()?);
        let sources = folded
            .cross_attentions
            .iter()
            .map(|layer| layer.source(data))
            .collect::<candle_core::Result<Vec<_>>>()?;
        let dims = [&[1], self.latents.dims()].concat();
        let mut latents = reshape(&self.latents, dims)?; // [1, latents, width]
        for iteration in 0..config.num_iterations {
            let mode = mode.child(iteration as u64);
            if let Some(set) = config.cross_attention_set(iteration) {
                let (layer, source) = (&folded.cross_attentions[set], &sources[set]);
                if probed {
                    let logits = layer.logits(&latents, source)?;
                    show(probe, Stage::CrossAttentionLogits(iteration), &logits);
                    let map = softmax(&logits)?.mean(1)?;
                    show(probe, Stage::CrossAttentionMap(iteration), &map);
                }
                latents = layer.forward(&latents, source, mode.child(0))?;
                show(probe, Stage::CrossAttention(iteration), &latents);
            }
            let transformer = &folded.transformers[config.transformer_set(iteration)];
            let mut hook = |block, logits: &Tensor| {
                show(
                    probe,
                    Stage::SelfAttentionLogits { iteration, block },
                    logits,
                );
            };
            let hook: Option<&mut LogitsHook> = if probed { Some(&mut hook) } else { None };
            latents = transformer.forward(&latents, mode.child(1), hook)?; // [batch, latents, width]
            show(probe, Stage::Transformer(iteration), &latents);
        }
        Ok(latents)
    }

    /// Computes the input of the head: the mean over the latents, normalized if configured,
    /// `[batch, width]`.
    fn pooled(&self, latents: &Tensor) -> Result<Tensor> {
        let pooled = mean_pool(latents)?;
        Ok(match &self.norm_pooled {
            Some(norm) => norm.forward(&pooled)?,
            None => pooled,
        })
    }

    /// Returns the attention maps of `images`: one `[batch, latents, tokens]` per cross-attention,
    /// with rows that sum to 1. Token `t` is the patch in row `t / tokens_per_side`.
    ///
    /// # Errors
    /// As for [`Perceiver::forward`].
    pub fn attention_maps(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        let mut maps = Vec::with_capacity(self.config.num_iterations);
        self.forward_probed(images, Mode::Inference, &mut |stage, tensor| {
            if let Stage::CrossAttentionMap(_) = stage {
                maps.push(tensor.clone());
            }
        })?;
        Ok(maps)
    }
}

impl Classifier for Perceiver {
    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.forward(images, mode)
    }

    fn num_classes(&self) -> usize {
        self.config.num_classes()
    }

    fn forward_probed(&self, images: &Tensor, mode: Mode, probe: &mut Probe) -> Result<Tensor> {
        self.forward_probed(images, mode, probe)
    }

    fn features(&self, images: &Tensor, features: Features) -> Result<Tensor> {
        self.features(images, features)
    }

    fn dtype(&self) -> DType {
        self.dtype()
    }

    fn token_grid(&self, height: usize, width: usize) -> Option<[usize; 2]> {
        let size = self.config.image_size;
        ([height, width] == [size; 2]).then_some([self.config.tokens_per_side(); 2])
    }

    fn set_activation_checkpointing(&mut self, on: bool) {
        for transformer in &mut self.transformers {
            transformer.set_recomputation(on);
        }
    }
}

impl ModuleT for Perceiver {
    /// Runs [`Perceiver::forward`] for training loops written for candle's traits. In training, the
    /// dropout key is the number of training passes so far; for exact resume, call
    /// [`Perceiver::forward`] with a key.
    fn forward_t(&self, images: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        let mode = if train {
            Mode::Training(RngKey::new(self.passes.fetch_add(1, Ordering::Relaxed)))
        } else {
            Mode::Inference
        };
        self.forward(images, mode).map_err(|error| match error {
            ModelError::Tensor(error) => error,
            other => candle_core::Error::wrap(other),
        })
    }
}
