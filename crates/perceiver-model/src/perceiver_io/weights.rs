//! The weights of a Perceiver IO model: trainable parameters, and the running statistics of the
//! batch norm.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use perceiver_ops::RngKey;

use crate::error::Result;
use crate::perceiver_io::PerceiverIo;
use crate::perceiver_io::config::PerceiverIoConfig;
use crate::perceiver_io::kind::InputKind;
use crate::perceiver_io::names::{is_buffer, is_unused, specifications};
use crate::weights::parameters::{Parameters, fitting, initial_values, require_finite};

/// The named weights of a [`PerceiverIo`], with its configuration.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use perceiver_model::{InputKind, PerceiverIoConfig, PerceiverIoWeights};
/// use perceiver_ops::Mode;
///
/// let config = PerceiverIoConfig {
///     num_latents: 4,
///     d_latents: 8,
///     num_self_attends_per_block: 2,
///     num_cross_attention_heads: 1,
///     ..PerceiverIoConfig::default()
/// };
/// let weights = PerceiverIoWeights::from_seed(&config, InputKind::Conv, 0, &Device::Cpu)?;
/// let images = Tensor::zeros((1, 3, 20, 30), DType::F32, &Device::Cpu)?;
/// let logits = weights.model()?.forward(&images, Mode::Inference)?;
/// assert_eq!(logits.dims(), [1, 2]);
/// let gradients = logits.sum_all()?.backward()?;
/// let latents = weights.parameters().get("perceiver.embeddings.latents").unwrap();
/// assert!(gradients.get(latents).is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct PerceiverIoWeights {
    config: PerceiverIoConfig,
    kind: InputKind,
    parameters: Parameters,
    buffers: BTreeMap<String, Tensor>,
}

impl PerceiverIoWeights {
    /// Creates weights from the tensors of a checkpoint, which must be exactly those of the
    /// architecture; `num_batches_tracked` is ignored. 16-bit values are widened to `f32`.
    ///
    /// # Errors
    /// When a weight is missing, surplus, of another shape, of no floating-point type or not
    /// finite; each is named. Names and shapes are checked before any value is copied.
    pub fn from_tensors(
        config: &PerceiverIoConfig,
        mut tensors: HashMap<String, Tensor>,
        device: &Device,
    ) -> Result<Self> {
        let kind = InputKind::of_tensors(tensors.keys().map(String::as_str));
        tensors.retain(|name, _| !is_unused(name));
        let mut buffers = BTreeMap::new();
        let mut parameters = Vec::new();
        for (name, tensor) in fitting(specifications(config, kind)?, tensors)? {
            let tensor = tensor.to_dtype(DType::F32)?;
            require_finite(&name, &tensor)?;
            let tensor = tensor.to_device(device)?;
            if is_buffer(&name) {
                buffers.insert(name, tensor.detach());
            } else {
                parameters.push((name, tensor));
            }
        }
        Ok(Self {
            config: config.clone(),
            kind,
            parameters: Parameters::from_variables(parameters)?,
            buffers,
        })
    }

    /// Initializes weights as transformers does: weights, latents and positions normal with the
    /// standard deviation `initializer_range`, biases 0, norms 1 and 0. For a given configuration,
    /// they depend only on the seed and their names.
    ///
    /// # Errors
    /// When the configuration is invalid or the device is out of memory.
    pub fn from_seed(
        config: &PerceiverIoConfig,
        kind: InputKind,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let key = RngKey::new(seed).fold_in_name("parameters");
        let tensors = specifications(config, kind)?
            .into_iter()
            .map(|(name, (shape, init))| {
                let values = initial_values(init, shape.elem_count(), key.fold_in_name(&name))?;
                Ok((name, Tensor::from_vec(values, shape, device)?))
            })
            .collect::<Result<_>>()?;
        Self::from_tensors(config, tensors, device)
    }

    /// Returns the architecture.
    pub fn config(&self) -> &PerceiverIoConfig {
        &self.config
    }

    /// Returns the kind of the model.
    pub fn kind(&self) -> InputKind {
        self.kind
    }

    /// Returns the trainable parameters.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Returns all tensors by name, as a checkpoint has them: views of the parameters that follow
    /// later updates, and the running statistics.
    pub fn tensors(&self) -> HashMap<String, Tensor> {
        let mut tensors = self.parameters.tensors();
        let buffers = self.buffers.iter();
        tensors.extend(buffers.map(|(name, tensor)| (name.clone(), tensor.clone())));
        tensors
    }

    /// Builds the model on these weights, which it shares: updates apply to both.
    ///
    /// # Errors
    /// When candle refuses an operation.
    pub fn model(&self) -> Result<PerceiverIo> {
        self.model_through(|_, variable| Ok(variable.clone()))
    }

    /// Builds the model on the results of `through`, which receives every parameter's name and
    /// variable: for example an identity that sees the gradient, or a cast to another type.
    ///
    /// # Errors
    /// Those of `through`.
    pub fn model_through(
        &self,
        mut through: impl FnMut(&str, &Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<PerceiverIo> {
        let mut tensors: HashMap<String, Tensor> = self.buffers.clone().into_iter().collect();
        let mut dtype = DType::F32;
        for (name, variable) in self.parameters.iter() {
            let tensor = through(name, variable)?;
            dtype = tensor.dtype();
            tensors.insert(name.to_string(), tensor);
        }
        let vb = VarBuilder::from_tensors(tensors, dtype, &self.parameters.device());
        PerceiverIo::new(&self.config, self.kind, vb)
    }

    /// Builds the model for inference only. It records no gradients.
    ///
    /// # Errors
    /// As for [`PerceiverIoWeights::model`].
    pub fn inference_model(&self) -> Result<PerceiverIo> {
        self.model_through(|_, variable| Ok(variable.detach()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ModelError;

    fn config() -> PerceiverIoConfig {
        PerceiverIoConfig {
            num_latents: 3,
            d_latents: 8,
            num_blocks: 2,
            num_self_attends_per_block: 1,
            num_self_attention_heads: 2,
            num_cross_attention_heads: 1,
            image_size: 6,
            ..PerceiverIoConfig::default()
        }
    }

    fn checkpoint(kind: InputKind) -> HashMap<String, Tensor> {
        let weights = PerceiverIoWeights::from_seed(&config(), kind, 1, &Device::Cpu).unwrap();
        let tensors = weights.tensors().into_iter();
        tensors
            .map(|(name, tensor)| (name, tensor.detach()))
            .collect()
    }

    fn load(tensors: HashMap<String, Tensor>) -> Result<PerceiverIoWeights> {
        PerceiverIoWeights::from_tensors(&config(), tensors, &Device::Cpu)
    }

    #[test]
    fn kinds_and_buffers_are_told_by_name() {
        for kind in [InputKind::Learned, InputKind::Fourier, InputKind::Conv] {
            let mut tensors = checkpoint(kind);
            let count = "perceiver.input_preprocessor.convnet.batchnorm.num_batches_tracked";
            if kind == InputKind::Conv {
                tensors.insert(count.to_string(), Tensor::new(7_i64, &Device::Cpu).unwrap());
            }
            let weights = load(tensors).unwrap();
            assert_eq!(weights.kind(), kind);
            assert_eq!(
                weights.parameters().count(),
                config().parameter_count(kind).unwrap()
            );
            assert!(
                weights
                    .parameters()
                    .iter()
                    .all(|(name, _)| !is_buffer(name))
            );
            assert!(!weights.tensors().contains_key(count));
        }
    }

    #[test]
    fn weights_that_do_not_fit_are_errors_by_name() {
        let name = "perceiver.decoder.decoder.final_layer.weight";
        let mut missing = checkpoint(InputKind::Fourier);
        missing.remove(name);
        let error = load(missing).unwrap_err();
        assert!(
            matches!(&error, ModelError::MissingWeight { name: found, .. } if found == name),
            "{error}"
        );
        let mut surplus = checkpoint(InputKind::Fourier);
        surplus.insert(
            "head".to_string(),
            Tensor::new(&[1_f32], &Device::Cpu).unwrap(),
        );
        let error = load(surplus).unwrap_err();
        assert!(
            matches!(&error, ModelError::UnexpectedWeights { names } if names == &["head"]),
            "{error}"
        );
        let mut reshaped = checkpoint(InputKind::Fourier);
        let turned = reshaped[name].t().unwrap().contiguous().unwrap();
        reshaped.insert(name.to_string(), turned);
        let error = load(reshaped).unwrap_err();
        assert!(matches!(&error, ModelError::WeightShape { .. }), "{error}");
        let mut infinite = checkpoint(InputKind::Conv);
        let name = "perceiver.input_preprocessor.convnet.batchnorm.running_var";
        let value = Tensor::full(f32::INFINITY, 64, &Device::Cpu).unwrap();
        infinite.insert(name.to_string(), value);
        let error = load(infinite).unwrap_err();
        assert!(
            matches!(&error, ModelError::WeightNotFinite { .. }),
            "{error}"
        );
    }

    #[test]
    fn half_precision_weights_are_widened() {
        for dtype in [DType::F16, DType::BF16] {
            let tensors = checkpoint(InputKind::Learned).into_iter();
            let tensors = tensors.map(|(name, tensor)| (name, tensor.to_dtype(dtype).unwrap()));
            let weights = load(tensors.collect()).unwrap();
            assert!(weights.tensors().values().all(|t| t.dtype() == DType::F32));
        }
    }
}
