//! Perceiver IO image classifiers of Hugging Face transformers: the checkpoints
//! `deepmind/vision-perceiver-learned`, `-fourier` and `-conv`.
//!
//! Jaegle et al., "Perceiver IO: A General Architecture for Structured Inputs & Outputs", 2021.
//! Latents read the tokens of an image once, by cross-attention; self-attention layers are applied
//! to them in several blocks with the same weights; a learned query reads the result.
//!
//! The function is that of transformers. The authors' own model has the same weights and another
//! function: see [`PerceiverIo::with_reference`].

pub(crate) mod config;
pub(crate) mod conv_stem;
pub(crate) mod decoder;
pub(crate) mod fourier_positions;
pub(crate) mod kind;
pub(crate) mod layer;
pub(crate) mod names;
pub(crate) mod preprocessor;
pub(crate) mod weights;
pub(crate) mod windows;

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use perceiver_ops::{Mode, reshape, to_dtype};

use crate::attention::form::AttentionForm;
use crate::error::{ModelError, Result};
use crate::hooks::{Probe, Stage};
use crate::weights::directory::read_weights;
use config::PerceiverIoConfig;
use decoder::Decoder;
use kind::InputKind;
use layer::{Activation, Layer};
use preprocessor::Preprocessor;
use weights::PerceiverIoWeights;

/// A Perceiver IO image classifier, `[batch, 3, H, W] -> [batch, labels]`.
///
/// With learned positions, images have the size of the configuration; otherwise any size.
///
/// ```no_run
/// use candle_core::{DType, Device, Tensor};
/// use perceiver_model::PerceiverIo;
/// use perceiver_ops::Mode;
///
/// // A directory with the files of deepmind/vision-perceiver-fourier.
/// let model = PerceiverIo::open("vision-perceiver-fourier", &Device::Cpu)?;
/// let images = Tensor::zeros((1, 3, 224, 224), DType::F32, &Device::Cpu)?; // normalized already
/// let logits = model.forward(&images, Mode::Inference)?; // [1, 1000]
/// # Ok::<(), perceiver_model::ModelError>(())
/// ```
#[derive(Debug, Clone)]
pub struct PerceiverIo {
    config: PerceiverIoConfig,
    kind: InputKind,
    preprocessor: Preprocessor,
    latents: Tensor, // [latents, width]
    cross_attention: Layer,
    /// The layers of a block; all blocks have the same.
    self_attention: Vec<Layer>,
    decoder: Decoder,
}

impl PerceiverIo {
    /// Builds the model from the weights that `vb` provides, under the names of transformers.
    ///
    /// # Errors
    /// When the configuration is invalid, or `vb` lacks a weight or has it in another shape.
    #[allow(clippy::needless_pass_by_value)] // VarBuilders are passed by value throughout candle.
    pub fn new(config: &PerceiverIoConfig, kind: InputKind, vb: VarBuilder) -> Result<Self> {
        config.validate(kind)?;
        let activation = config.activation()?;
        let vb = vb.pp("perceiver");
        let encoder = vb.pp("encoder");
        let (cross, layers) = (encoder.pp("cross_attention"), encoder.pp("self_attends"));
        let latents = (config.num_latents, config.d_latents);
        let mut cross_attention =
            Layer::new(config, config.encoder_layer(kind), activation, &cross)?;
        cross_attention.set_query_residual(config.use_query_residual);
        Ok(Self {
            preprocessor: Preprocessor::new(config, kind, &vb.pp("input_preprocessor"))?,
            latents: vb.get_with_hints(latents, "embeddings.latents", config.initializer())?,
            cross_attention,
            self_attention: (0..config.num_self_attends_per_block)
                .map(|index| Layer::new(config, config.self_layer(), activation, &layers.pp(index)))
                .collect::<candle_core::Result<_>>()?,
            decoder: Decoder::new(config, activation, &vb.pp("decoder.decoder"))?,
            config: config.clone(),
            kind,
        })
    }

    /// Builds the model for inference from the tensors of a checkpoint. For training, see
    /// [`PerceiverIoWeights`].
    ///
    /// # Errors
    /// As for [`PerceiverIoWeights::from_tensors`].
    pub fn from_tensors(
        config: &PerceiverIoConfig,
        tensors: HashMap<String, Tensor>,
        device: &Device,
    ) -> Result<Self> {
        PerceiverIoWeights::from_tensors(config, tensors, device)?.inference_model()
    }

    /// Loads a model for inference from a directory with `config.json` and the weights as
    /// [`read_weights`] finds them.
    ///
    /// # Errors
    /// When a file cannot be read, and as for [`PerceiverIo::from_tensors`].
    pub fn open(directory: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let directory = directory.as_ref();
        let config = PerceiverIoConfig::open(directory.join("config.json"))?;
        let file = read_weights(directory)?;
        Self::from_tensors(&config, file.tensors, device).map_err(|error| match error {
            error @ ModelError::Config { .. } => error,
            error => ModelError::InFile {
                path: file.path,
                source: Box::new(error),
            },
        })
    }

    /// Returns the architecture.
    pub fn config(&self) -> &PerceiverIoConfig {
        &self.config
    }

    /// Returns the kind of the model: how it makes tokens of pixels.
    pub fn kind(&self) -> InputKind {
        self.kind
    }

    /// Returns the model with the function of the authors' implementation, or with that of
    /// transformers (the default). The accuracies that they published belong to the former.
    ///
    /// Their GELU is the tanh approximation; with learned positions, the decoder does not add
    /// the query to what it reads; the convolutional stem pads with `SAME`, which moves its windows
    /// by a pixel and gives 56 x 56 tokens for 224 x 224 pixels, not 55 x 55.
    #[must_use]
    pub fn with_reference(mut self, reference: bool) -> Self {
        let own = self.config.activation().unwrap_or(Activation::Gelu); // validated by `new`
        let activation = if reference { Activation::GeluTanh } else { own };
        for layer in self.layers_mut() {
            layer.set_activation(activation);
        }
        let is_learned = self.kind == InputKind::Learned;
        let decoder = self.decoder.layer_mut();
        decoder.set_query_residual(!(reference && is_learned));
        self.preprocessor.set_same_padding(reference);
        self
    }

    /// Returns the model with both cross-attentions in the given form; by default each takes the
    /// one with fewer multiply-adds.
    #[must_use]
    pub fn with_attention_form(mut self, form: AttentionForm) -> Self {
        self.cross_attention.set_form(form);
        self.decoder.layer_mut().set_form(form);
        self
    }

    fn layers_mut(&mut self) -> impl Iterator<Item = &mut Layer> {
        let ends = [&mut self.cross_attention, self.decoder.layer_mut()];
        self.self_attention.iter_mut().chain(ends)
    }

    /// Returns the rows and columns of tokens for images of this height and width; `None` if the
    /// model does not take them.
    pub fn token_grid(&self, height: usize, width: usize) -> Option<[usize; 2]> {
        self.preprocessor.grid([height, width])
    }

    /// Computes the logits `[batch, labels]` of normalized `images` `[batch, 3, H, W]`.
    ///
    /// In training, `mode` carries the key of this step, for the dropout of attention weights.
    ///
    /// # Errors
    /// When the model does not take images of this shape.
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.pass(images, mode, None)
    }

    /// Computes [`PerceiverIo::forward`] and passes tensors on the way to `probe`: the tokens
    /// ([`Stage::Encoded`]), the latents after the cross-attention ([`Stage::CrossAttention`] 0)
    /// and after each block ([`Stage::Transformer`]), and the logits.
    ///
    /// # Errors
    /// As for [`PerceiverIo::forward`].
    pub fn forward_probed(&self, images: &Tensor, mode: Mode, probe: &mut Probe) -> Result<Tensor> {
        self.pass(images, mode, Some(probe))
    }

    fn pass(&self, images: &Tensor, mode: Mode, mut probe: Option<&mut Probe>) -> Result<Tensor> {
        let mut show = |stage, tensor: &Tensor| {
            if let Some(probe) = probe.as_mut() {
                probe(stage, tensor);
            }
        };
        let tokens = self.encode(images)?;
        show(Stage::Encoded, &tokens);
        let cross_attention = &self.cross_attention;
        let mut latents =
            cross_attention.forward(&self.queries()?, Some(&tokens), mode.child(0))?;
        drop(tokens);
        show(Stage::CrossAttention(0), &latents);
        let blocks = self.config.num_blocks;
        for block in 0..blocks {
            let mode = mode.child(1 + block as u64);
            for (number, layer) in self.self_attention.iter().enumerate() {
                latents = layer.forward(&latents, None, mode.child(number as u64))?;
            }
            show(Stage::Transformer(block), &latents);
        }
        let logits = self
            .decoder
            .forward(&latents, mode.child(1 + blocks as u64))?;
        let logits = to_dtype(&logits, DType::F32)?; // [batch, labels]
        show(Stage::Logits, &logits);
        Ok(logits)
    }

    /// Computes the tokens of images, `[batch, tokens, token_width]`.
    ///
    /// # Errors
    /// When the model does not take images of this shape.
    pub fn encode(&self, images: &Tensor) -> Result<Tensor> {
        let images = images.to_dtype(self.latents.dtype())?;
        self.preprocessor.forward(&images)
    }

    /// Returns where the latents look: the weights of the encoder's cross-attention, averaged over
    /// heads, `[batch, latents, tokens]`. Tokens are in rows, as [`PerceiverIo::token_grid`] says.
    ///
    /// # Errors
    /// As for [`PerceiverIo::forward`].
    pub fn attention_map(&self, images: &Tensor) -> Result<Tensor> {
        let tokens = self.encode(images)?;
        Ok(self
            .cross_attention
            .attention_map(&self.queries()?, &tokens)?)
    }

    /// Returns the initial latents, `[1, latents, width]`.
    fn queries(&self) -> Result<Tensor> {
        let (latents, width) = self.latents.dims2()?;
        Ok(reshape(&self.latents, (1, latents, width))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(kind: InputKind) -> PerceiverIo {
        let config = PerceiverIoConfig {
            num_latents: 3,
            d_latents: 8,
            num_blocks: 2,
            num_self_attends_per_block: 2,
            num_self_attention_heads: 2,
            num_cross_attention_heads: 1,
            initializer_range: 0.5,
            image_size: 12,
            ..PerceiverIoConfig::default()
        };
        let weights = PerceiverIoWeights::from_seed(&config, kind, 3, &Device::Cpu).unwrap();
        weights.inference_model().unwrap()
    }

    fn images() -> Tensor {
        let values = (0..2 * 3 * 144).map(|i| ((i * 37) % 19) as f32 / 9.0 - 1.0);
        let values = Tensor::from_iter(values, &Device::Cpu).unwrap();
        values.reshape((2, 3, 12, 12)).unwrap()
    }

    fn logits(model: &PerceiverIo) -> Vec<f32> {
        let logits = model.forward(&images(), Mode::Inference).unwrap();
        logits.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn deepminds_function_differs_and_can_be_undone() {
        for kind in [InputKind::Learned, InputKind::Fourier, InputKind::Conv] {
            let model = model(kind);
            let own = logits(&model);
            let reference = model.with_reference(true);
            let grid = if kind == InputKind::Conv {
                [3, 3]
            } else {
                [12, 12]
            };
            assert_eq!(reference.token_grid(12, 12), Some(grid), "{kind:?}");
            let differs = logits(&reference);
            assert!(differs.iter().all(|logit| logit.is_finite()));
            assert_ne!(differs, own, "{kind:?}");
            assert_eq!(logits(&reference.with_reference(false)), own, "{kind:?}");
        }
    }

    #[test]
    fn both_forms_of_attention_give_the_same_logits() {
        for kind in [InputKind::Learned, InputKind::Conv] {
            let direct = model(kind).with_attention_form(AttentionForm::Direct);
            let absorbed = model(kind).with_attention_form(AttentionForm::Absorbed);
            for (direct, absorbed) in logits(&direct).iter().zip(logits(&absorbed)) {
                assert!((direct - absorbed).abs() < 1e-4 * direct.abs().max(1.0));
            }
        }
    }

    #[test]
    fn attention_maps_are_distributions_over_tokens() {
        let map = model(InputKind::Conv).attention_map(&images()).unwrap();
        assert_eq!(map.dims(), [2, 3, 4]);
        let sums = map.sum(2).unwrap().flatten_all().unwrap();
        for sum in sums.to_vec1::<f32>().unwrap() {
            assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        }
    }

    #[test]
    fn images_of_another_size_than_the_position_table_are_rejected() {
        let images = Tensor::zeros((1, 3, 10, 12), DType::F32, &Device::Cpu).unwrap();
        let model = model(InputKind::Learned);
        let error = model.forward(&images, Mode::Inference).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("[batch, 3, 12, 12], found [1, 3, 10, 12]"),
            "{error}"
        );
    }
}
