//! Perceiver IO image classifiers of Hugging Face transformers: the checkpoints
//! `deepmind/vision-perceiver-learned`, `-fourier` and `-conv`.
//!
//! Jaegle et al., "Perceiver IO: A General Architecture for Structured Inputs & Outputs", 2021.
//! Latents read the tokens of an image once, by cross-attention; self-attention layers are applied
//! to them in several blocks with the same weights; a learned query reads the result.
//!
//! The function is that of transformers. The authors' own model has the same weights and another
//! function: see [`PerceiverIo::with_reference`].

mod architecture;
pub(crate) mod config;
pub(crate) mod conv_stem;
pub(crate) mod decoder;
pub(crate) mod fourier_positions;
pub(crate) mod kind;
pub(crate) mod layer;
pub(crate) mod learned_positions;
pub(crate) mod names;
pub(crate) mod preprocessor;
pub(crate) mod summary;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod windows;

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use perceiver_ops::{Mode, reshape, to_dtype};

use crate::attention::form::AttentionForm;
use crate::error::{ModelError, Result};
use crate::hooks::{Features, Probe, Stage, show};
use crate::weights::directory::read_weights;
use crate::weights::parameters::Parameters;
use config::PerceiverIoConfig;
use decoder::Decoder;
use kind::InputKind;
use layer::{Activation, Layer, attention_map};
use preprocessor::Preprocessor;

/// A Perceiver IO image classifier, `[batch, 3, H, W] -> [batch, labels]`.
///
/// It takes images of any size. Learned positions belong to the size of the configuration, and are
/// resized for others.
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
    preprocessor: Preprocessor,
    latents: Tensor, // [latents, width]
    cross_attention: Layer,
    /// The layers of a block; all blocks have the same.
    self_attention: Vec<Layer>,
    /// Whether the backward pass recomputes the self-attention layers.
    recomputes: bool,
    decoder: Decoder,
}

impl PerceiverIo {
    /// Builds the model from the weights that `vb` provides, under the names of transformers.
    ///
    /// # Errors
    /// When the configuration is invalid, or `vb` lacks a weight or has it in another shape.
    #[allow(clippy::needless_pass_by_value)] // VarBuilders are passed by value throughout candle.
    pub fn new(config: &PerceiverIoConfig, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let kind = config.input;
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
            recomputes: false,
            decoder: Decoder::new(config, activation, &vb.pp("decoder.decoder"))?,
            config: config.clone(),
        })
    }

    /// Builds the model for inference from the tensors of a checkpoint, whose names tell the input
    /// preprocessor. For training, see [`Parameters`].
    ///
    /// # Errors
    /// As for [`Parameters::from_loaded_tensors`].
    pub fn from_tensors(
        config: &PerceiverIoConfig,
        tensors: HashMap<String, Tensor>,
        device: &Device,
    ) -> Result<Self> {
        let config = PerceiverIoConfig {
            input: InputKind::of_tensors(tensors.keys().map(String::as_str)),
            ..config.clone()
        };
        Parameters::from_loaded_tensors(&config, tensors, device)?.inference_model(&config)
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

    /// Returns the type of the parameters.
    pub fn dtype(&self) -> DType {
        self.latents.dtype()
    }

    /// Returns the kind of the model: how it makes tokens of pixels.
    pub fn kind(&self) -> InputKind {
        self.config.input
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
        let is_learned = self.config.input == InputKind::Learned;
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

    /// Returns the model with activation checkpointing on or off (the default): the backward pass
    /// keeps only the input of each self-attention layer and recomputes the rest. It takes less
    /// memory and more time. Values and gradients stay the same.
    #[must_use]
    pub fn with_recomputation(mut self, recomputes: bool) -> Self {
        self.set_recomputation(recomputes);
        self
    }

    pub(crate) fn set_recomputation(&mut self, recomputes: bool) {
        self.recomputes = recomputes;
    }

    /// Returns a copy for inference only, which computes once what is the same in every pass:
    /// products of weights, learned positions, and weights in the order in which products read them.
    pub(crate) fn folded(&self) -> Result<Self> {
        let layers = self.self_attention.iter().map(Layer::folded);
        Ok(Self {
            preprocessor: self.preprocessor.folded(),
            cross_attention: self.cross_attention.folded()?,
            self_attention: layers.collect::<candle_core::Result<_>>()?,
            decoder: self.decoder.folded()?,
            ..self.clone()
        })
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

    /// Returns the positions of the tokens of images of this height and width, as they follow the
    /// features of each token: `[tokens, width]`.
    ///
    /// # Errors
    /// When the model does not take such images.
    pub fn positions(&self, height: usize, width: usize) -> Result<Tensor> {
        self.preprocessor
            .positions_of([height, width], &self.latents)
    }

    /// Returns the convolution of the stem with its batch norm multiplied in: the kernel
    /// `[64, 3, 7, 7]` and the bias `[64]`. `None` if the model has no stem.
    ///
    /// # Errors
    /// When candle refuses an operation.
    pub fn stem_convolution(&self) -> Result<Option<[Tensor; 2]>> {
        Ok(self.preprocessor.stem_convolution()?)
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

    /// Computes [`PerceiverIo::forward`] and passes the tensor of every [`Stage`] to `probe`, except
    /// [`Stage::Pooled`]. The encoder's cross-attention has the number 0. The iteration of a
    /// self-attention layer is its block, and its block is its number there.
    ///
    /// The attention logits and maps take as much memory as an array of latents x tokens values each.
    ///
    /// # Errors
    /// As for [`PerceiverIo::forward`].
    pub fn forward_probed(&self, images: &Tensor, mode: Mode, probe: &mut Probe) -> Result<Tensor> {
        self.pass(images, mode, Some(probe))
    }

    /// Computes the features of normalized `images` `[batch, 3, H, W]`, in `f32`.
    ///
    /// # Errors
    /// As for [`PerceiverIo::forward`].
    pub fn features(&self, images: &Tensor, features: Features) -> Result<Tensor> {
        let latents = self.latents_of(images, Mode::Inference, &mut None)?;
        let found = match features {
            Features::Latents => latents,
            Features::Pooled => self.decoder.read(&latents, Mode::Inference)?,
        };
        Ok(to_dtype(&found, DType::F32)?)
    }

    /// Runs the model. Attention logits are computed only for a probe.
    fn pass(&self, images: &Tensor, mode: Mode, mut probe: Option<&mut Probe>) -> Result<Tensor> {
        let latents = self.latents_of(images, mode, &mut probe)?;
        let mode = mode.child(1 + self.config.num_blocks as u64);
        let logits = self.decoder.forward(&latents, mode)?;
        let logits = to_dtype(&logits, DType::F32)?; // [batch, labels]
        show(&mut probe, Stage::Logits, &logits);
        Ok(logits)
    }

    /// Runs everything before the decoder: `[batch, latents, width]`.
    fn latents_of(
        &self,
        images: &Tensor,
        mode: Mode,
        probe: &mut Option<&mut Probe>,
    ) -> Result<Tensor> {
        let tokens = self.encode(images)?;
        show(probe, Stage::Encoded, &tokens);
        let queries = self.queries()?;
        if probe.is_some() {
            let logits = self.cross_attention.logits(&queries, Some(&tokens))?;
            show(probe, Stage::CrossAttentionLogits(0), &logits);
            let map = attention_map(&logits)?;
            show(probe, Stage::CrossAttentionMap(0), &map);
        }
        let cross_attention = &self.cross_attention;
        let latents = cross_attention.forward(&queries, Some(&tokens), mode.child(0))?;
        drop(tokens);
        show(probe, Stage::CrossAttention(0), &latents);
        self.blocks(latents, mode, probe)
    }

    /// Applies the self-attention layers of all blocks: `[batch, latents, width]`.
    fn blocks(
        &self,
        mut latents: Tensor,
        mode: Mode,
        probe: &mut Option<&mut Probe>,
    ) -> Result<Tensor> {
        let layers = self.self_attention.iter();
        // The blocks share the parameters that the backward pass keeps.
        let parameters = layers.map(|layer| self.recomputes.then(|| layer.checkpointed()));
        let parameters = parameters
            .map(Option::transpose)
            .collect::<candle_core::Result<Vec<_>>>()?;
        for block in 0..self.config.num_blocks {
            let mode = mode.child(1 + block as u64);
            let layers = self.self_attention.iter().zip(&parameters);
            for (number, (layer, parameters)) in layers.enumerate() {
                if probe.is_some() {
                    let logits = layer.logits(&latents, None)?;
                    let stage = Stage::SelfAttentionLogits {
                        iteration: block,
                        block: number,
                    };
                    show(probe, stage, &logits);
                }
                let mode = mode.child(number as u64);
                latents = match parameters {
                    Some(parameters) => layer.forward_recomputed(&latents, parameters, mode)?,
                    None => layer.forward(&latents, None, mode)?,
                };
            }
            show(probe, Stage::Transformer(block), &latents);
        }
        Ok(latents)
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
        let logits = self
            .cross_attention
            .logits(&self.queries()?, Some(&tokens))?;
        Ok(attention_map(&logits)?)
    }

    /// Returns the initial latents, `[1, latents, width]`.
    fn queries(&self) -> Result<Tensor> {
        let (latents, width) = self.latents.dims2()?;
        Ok(reshape(&self.latents, (1, latents, width))?)
    }
}

#[cfg(test)]
mod tests {
    use perceiver_ops::{RngKey, Tape};

    use super::*;

    fn config(input: InputKind) -> PerceiverIoConfig {
        PerceiverIoConfig {
            input,
            num_latents: 3,
            d_latents: 8,
            num_blocks: 2,
            num_self_attends_per_block: 2,
            num_self_attention_heads: 2,
            num_cross_attention_heads: 1,
            initializer_range: 0.5,
            image_size: 12,
            ..PerceiverIoConfig::default()
        }
    }

    fn model(kind: InputKind) -> PerceiverIo {
        let config = config(kind);
        let parameters = Parameters::from_seed(&config, 3, &Device::Cpu).unwrap();
        parameters.inference_model(&config).unwrap()
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
    fn learned_positions_are_resized_for_images_of_other_sizes() {
        let zeros =
            |height, width| Tensor::zeros((2, 3, height, width), DType::F32, &Device::Cpu).unwrap();
        let model = model(InputKind::Learned);
        assert_eq!(model.token_grid(10, 15), Some([10, 15]));
        assert_eq!(model.token_grid(0, 15), None);
        let tokens = model.encode(&zeros(10, 15)).unwrap();
        assert_eq!(tokens.dims(), [2, 150, 512]);
        let own = model.encode(&zeros(12, 12)).unwrap();
        // In an image three times as large, the pixels 1, 4, 7 and so on are where 0, 1, 2 were.
        let position = |tokens: &Tensor, token: usize| {
            let token = tokens.get(0).and_then(|tokens| tokens.get(token)).unwrap();
            token.narrow(0, 256, 256).unwrap()
        };
        let large = model.encode(&zeros(36, 36)).unwrap();
        let found = position(&large, 16 * 36 + 22).to_vec1::<f32>().unwrap();
        let expected = position(&own, 5 * 12 + 7).to_vec1::<f32>().unwrap();
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-4, "{found}, not {expected}");
        }
        let error = model.encode(&zeros(0, 12)).unwrap_err();
        assert!(error.to_string().contains("with pixels"), "{error}");
    }

    /// A model for training, and one for inference with the same weights.
    fn both(kind: InputKind) -> (Parameters, PerceiverIo, PerceiverIo) {
        let config = config(kind);
        let parameters = Parameters::from_seed(&config, 3, &Device::Cpu).unwrap();
        let model = parameters.model(&config).unwrap();
        let folded = parameters.inference_model(&config).unwrap();
        (parameters, model, folded)
    }

    #[test]
    fn models_for_inference_give_the_logits_of_those_for_training() {
        for kind in [InputKind::Learned, InputKind::Fourier, InputKind::Conv] {
            let (_, model, folded) = both(kind);
            for _ in 0..2 {
                for (found, expected) in logits(&folded).iter().zip(logits(&model)) {
                    let bound = 1e-4 * expected.abs().max(1.0);
                    assert!((found - expected).abs() < bound, "{found}, not {expected}");
                }
            }
        }
    }

    #[test]
    fn activation_checkpointing_changes_no_gradient() {
        for kind in [InputKind::Learned, InputKind::Conv] {
            let (parameters, model, _) = both(kind);
            let mode = Mode::Training(RngKey::new(5));
            let gradients = |model: &PerceiverIo| {
                let tape = Tape::start();
                let logits = model.forward(&images(), mode).unwrap();
                let loss = logits.sqr().unwrap().sum_all().unwrap();
                (
                    logits.to_vec2::<f32>().unwrap(),
                    tape.backward(&loss).unwrap(),
                )
            };
            let (expected_logits, expected) = gradients(&model);
            let (logits, found) = gradients(&model.with_recomputation(true));
            assert_eq!(logits, expected_logits);
            for (name, variable) in parameters.iter() {
                let [found, expected] = [&found, &expected].map(|all| {
                    let gradient = all.get(variable).unwrap().flatten_all().unwrap();
                    gradient.to_vec1::<f32>().unwrap()
                });
                assert_eq!(found, expected, "{kind:?}: {name}");
            }
        }
    }

    #[test]
    fn probes_see_every_stage_once_and_change_nothing() {
        let model = model(InputKind::Conv); // 12 pixels are 6 values, then 2
        let mut shapes = Vec::new();
        let mut map = None;
        let mut probe = |stage, tensor: &Tensor| {
            if stage == Stage::CrossAttentionMap(0) {
                map = Some(tensor.to_vec3::<f32>().unwrap());
            }
            shapes.push((stage, tensor.dims().to_vec()));
        };
        let probed = model.forward_probed(&images(), Mode::Inference, &mut probe);
        let probed = probed.unwrap().flatten_all().unwrap();
        assert_eq!(probed.to_vec1::<f32>().unwrap(), logits(&model));
        let own = |iteration, block| {
            let stage = Stage::SelfAttentionLogits { iteration, block };
            (stage, vec![2, 2, 3, 3])
        };
        let latents = vec![2, 3, 8];
        assert_eq!(
            shapes,
            [
                (Stage::Encoded, vec![2, 4, 322]),
                (Stage::CrossAttentionLogits(0), vec![2, 1, 3, 4]),
                (Stage::CrossAttentionMap(0), vec![2, 3, 4]),
                (Stage::CrossAttention(0), latents.clone()),
                own(0, 0),
                own(0, 1),
                (Stage::Transformer(0), latents.clone()),
                own(1, 0),
                own(1, 1),
                (Stage::Transformer(1), latents),
                (Stage::Logits, vec![2, 2]),
            ]
        );
        let expected = model.attention_map(&images()).unwrap();
        assert_eq!(map.unwrap(), expected.to_vec3::<f32>().unwrap());
    }
}
