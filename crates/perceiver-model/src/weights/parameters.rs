//! Named parameters of a model: initialization from a seed, safetensors files.
//!
//! candle's `VarMap` draws from the device's generator, which cannot be seeded on the CPU, and
//! lists its variables in random order. Here every parameter has its own key, derived from the seed
//! and its name, and names are sorted.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use perceiver_files::read_regular;
use perceiver_ops::{RngKey, first_not_finite};
use rand::distr::{Distribution, Uniform};
use rand_distr::Normal;

use crate::architecture::Architecture;
use crate::error::{ModelError, Result};

/// Shapes and initializers of the tensors of an architecture, by name.
pub(crate) type Specifications = BTreeMap<String, (Shape, Init)>;

/// Returns shape and initializer of every tensor of an architecture, by name.
pub(crate) fn specifications(architecture: &impl Architecture) -> Result<Specifications> {
    recorded(|vb| architecture.build(vb).map(drop))
}

/// Returns shape and initializer of every tensor that `build` requests, by name.
pub(crate) fn recorded(build: impl FnOnce(VarBuilder) -> Result<()>) -> Result<Specifications> {
    let recorder = Recorder::default();
    let vb = VarBuilder::from_backend(Box::new(recorder.clone()), DType::F32, Device::Cpu);
    build(vb)?;
    let mut requests = recorder
        .requests
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut requests))
}

/// A backend that records a model's requests and returns zeros that take no memory.
#[derive(Clone, Default)]
struct Recorder {
    requests: Arc<Mutex<Specifications>>,
}

impl SimpleBackend for Recorder {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let placeholder = Tensor::zeros((), dtype, device)?.broadcast_as(&shape)?;
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.insert(name.to_string(), (shape, init));
        Ok(placeholder)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name}: requested without a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// The weights of a model by name, in sorted order: trainable variables, and tensors that are not
/// trained, such as the running statistics of a batch norm or frozen weights.
///
/// ```
/// use candle_core::Device;
/// use perceiver_model::{Parameters, PerceiverConfig};
///
/// let config = PerceiverConfig::default();
/// let parameters = Parameters::from_seed(&config, 0, &Device::Cpu)?;
/// assert_eq!(parameters.count(), 9_697_637);
/// let model = parameters.model(&config)?;
/// # Ok::<(), perceiver_model::ModelError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    variables: BTreeMap<String, Var>,
    /// The tensors that are not trained.
    constants: BTreeMap<String, Tensor>,
}

impl Parameters {
    /// Initializes parameters with the architecture's distributions. For a given configuration, they
    /// depend only on the seed and their names.
    ///
    /// Those of a Perceiver are Keras's: dense weights and the projection of Fourier features
    /// Glorot-uniform, biases 0, norms 1 and 0, latents normal with the standard deviation
    /// `latent_deviation` (0.05 in Keras), learned positions uniform in ±0.05. Those of a Perceiver
    /// IO are transformers': weights, latents and positions normal with the standard deviation
    /// `initializer_range`, biases 0, norms 1 and 0.
    ///
    /// # Errors
    /// When the configuration is invalid or the device is out of memory.
    pub fn from_seed(architecture: &impl Architecture, seed: u64, device: &Device) -> Result<Self> {
        let key = RngKey::new(seed).fold_in_name("parameters");
        let mut all = Self::default();
        for (name, (shape, init)) in specifications(architecture)? {
            let values = initial_values(init, shape.elem_count(), key.fold_in_name(&name))?;
            all.insert(
                architecture,
                name,
                &Tensor::from_vec(values, shape, device)?,
            )?;
        }
        Ok(all)
    }

    /// Adds a copy of a tensor: a variable, if the architecture trains it.
    fn insert(
        &mut self,
        architecture: &impl Architecture,
        name: String,
        tensor: &Tensor,
    ) -> Result<()> {
        if architecture.is_buffer(&name) {
            self.constants.insert(name, tensor.detach().copy()?);
        } else {
            self.variables.insert(name, Var::from_tensor(tensor)?);
        }
        Ok(())
    }

    /// Creates parameters from given values, which must be exactly those of the architecture.
    ///
    /// # Errors
    /// When a weight is missing, surplus, of another shape or of no floating-point type; each is
    /// named.
    pub fn from_tensors(
        architecture: &impl Architecture,
        mut tensors: HashMap<String, Tensor>,
        device: &Device,
    ) -> Result<Self> {
        tensors.retain(|name, _| !architecture.is_unused(name));
        let mut all = Self::default();
        for (name, tensor) in fitting(specifications(architecture)?, tensors)? {
            let tensor = tensor.to_device(device)?.to_dtype(DType::F32)?;
            all.insert(architecture, name, &tensor)?;
        }
        Ok(all)
    }

    /// Creates parameters as [`Parameters::from_tensors`] does, from the values of an untrusted
    /// file: all must be finite.
    ///
    /// All cores check the values. Names and shapes are checked before any value is copied.
    ///
    /// # Errors
    /// As for [`Parameters::from_tensors`], and [`ModelError::WeightNotFinite`] with the first
    /// weight that has a NaN or infinity.
    pub fn from_loaded_tensors(
        architecture: &impl Architecture,
        mut tensors: HashMap<String, Tensor>,
        device: &Device,
    ) -> Result<Self> {
        tensors.retain(|name, _| !architecture.is_unused(name));
        let mut all = Self::default();
        // Only the check runs in parallel: a copy reuses the memory that the previous one freed,
        // which copies in other threads would not.
        for (name, tensor) in fitting(specifications(architecture)?, tensors)? {
            let tensor = tensor.to_dtype(DType::F32)?;
            require_finite(&name, &tensor)?;
            all.insert(architecture, name, &tensor.to_device(device)?)?;
        }
        Ok(all)
    }

    /// Creates parameters from named variables, of no particular architecture.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn from_variables(tensors: impl IntoIterator<Item = (String, Tensor)>) -> Result<Self> {
        let variables = tensors
            .into_iter()
            .map(|(name, tensor)| Ok((name, Var::from_tensor(&tensor)?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            variables,
            constants: BTreeMap::new(),
        })
    }

    /// Returns the same weights, of which those that `is_frozen` names are not trained: they are
    /// left out of [`Parameters::iter`], and models built on the result compute no gradients for
    /// them. Both share all values.
    #[must_use]
    pub fn with_frozen(&self, is_frozen: impl Fn(&str) -> bool) -> Self {
        let (frozen, variables): (BTreeMap<_, _>, BTreeMap<_, _>) = self
            .variables
            .clone()
            .into_iter()
            .partition(|(name, _)| is_frozen(name));
        let mut constants = self.constants.clone();
        constants.extend(
            frozen
                .into_iter()
                .map(|(name, variable)| (name, variable.detach())),
        );
        Self {
            variables,
            constants,
        }
    }

    /// Returns copies of another type.
    ///
    /// # Errors
    /// When the device does not support the type or is out of memory.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        let mut all = Self::default();
        for (name, variable) in &self.variables {
            let copy = variable.detach().to_dtype(dtype)?;
            all.variables.insert(name.clone(), Var::from_tensor(&copy)?);
        }
        for (name, tensor) in &self.constants {
            all.constants.insert(name.clone(), tensor.to_dtype(dtype)?);
        }
        Ok(all)
    }

    /// Reads parameters from a safetensors file.
    ///
    /// # Errors
    /// When the file cannot be read, and as for [`Parameters::from_loaded_tensors`].
    pub fn open(
        architecture: &impl Architecture,
        path: impl AsRef<Path>,
        device: &Device,
    ) -> Result<Self> {
        let path = path.as_ref();
        let tensors = read_safetensors(path)?;
        Self::from_loaded_tensors(architecture, tensors, device).map_err(|error| {
            ModelError::InFile {
                path: path.to_path_buf(),
                source: Box::new(error),
            }
        })
    }

    /// Builds the model on these parameters, which it shares: updates apply to both.
    ///
    /// # Errors
    /// When the parameters were made for another configuration.
    pub fn model<A: Architecture>(&self, architecture: &A) -> Result<A::Model> {
        self.model_through(architecture, |_, variable| Ok(variable.clone()))
    }

    /// Builds the model on the results of `through`, which receives the name and the tensor of
    /// every weight: for example an identity that sees the gradient, or a cast to another type.
    ///
    /// # Errors
    /// As for [`Parameters::model`], and those of `through`.
    pub fn model_through<A: Architecture>(
        &self,
        architecture: &A,
        mut through: impl FnMut(&str, &Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<A::Model> {
        let mut dtype = DType::F32;
        let mut tensors = HashMap::new();
        let variables = self
            .iter()
            .map(|(name, variable)| (name, variable.as_tensor()));
        let constants = self
            .constants
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor));
        for (name, tensor) in variables.chain(constants) {
            let tensor = through(name, tensor)?;
            dtype = tensor.dtype();
            tensors.insert(name.to_string(), tensor);
        }
        architecture.build(VarBuilder::from_tensors(tensors, dtype, &self.device()))
    }

    /// Builds the model for inference only, on the current parameters. It records no gradients and
    /// may precompute weight products, so later updates of the parameters show in part or not at
    /// all.
    ///
    /// # Errors
    /// As for [`Parameters::model`].
    pub fn inference_model<A: Architecture>(&self, architecture: &A) -> Result<A::Model> {
        self.inference_model_in(architecture, DType::F32)
    }

    /// Builds a [`Parameters::inference_model`] on copies of another type.
    ///
    /// # Errors
    /// As for [`Parameters::model`], and when the device does not support the type.
    pub fn inference_model_in<A: Architecture>(
        &self,
        architecture: &A,
        dtype: DType,
    ) -> Result<A::Model> {
        let detach = |(name, tensor): (String, Tensor)| (name, tensor.detach());
        let tensors = self.tensors().into_iter().map(detach).collect();
        architecture.build_for_inference(VarBuilder::from_tensors(tensors, dtype, &self.device()))
    }

    pub(crate) fn device(&self) -> Device {
        let variables = self.variables.values().map(Var::as_tensor);
        let first = variables.chain(self.constants.values()).next();
        first.map_or(Device::Cpu, |tensor| tensor.device().clone())
    }

    /// Iterates over the names and variables that are trained, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.variables
            .iter()
            .map(|(name, variable)| (name.as_str(), variable))
    }

    /// Returns the variable called `name`, if it is trained.
    pub fn get(&self, name: &str) -> Option<&Var> {
        self.variables.get(name)
    }

    /// Returns the number of trainable values.
    pub fn count(&self) -> usize {
        self.variables.values().map(|v| v.elem_count()).sum()
    }

    /// Returns all tensors by name, also those that are not trained: views that follow later
    /// updates.
    pub fn tensors(&self) -> HashMap<String, Tensor> {
        let variables = self
            .iter()
            .map(|(name, variable)| (name.to_string(), variable.as_tensor().clone()));
        variables.chain(self.constants.clone()).collect()
    }

    /// Returns the tensors that are not trained, by name.
    pub fn constants(&self) -> &BTreeMap<String, Tensor> {
        &self.constants
    }

    /// Assigns every variable the tensor of its name. Other tensors are ignored.
    ///
    /// # Errors
    /// When a name is missing or a shape differs; nothing is changed then.
    pub fn assign(&self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        let mut pairs = Vec::with_capacity(self.variables.len());
        for (name, variable) in self.iter() {
            let expected = variable.dims().to_vec();
            let name = name.to_string();
            match tensors.get(&name) {
                None => return Err(ModelError::MissingWeight { name, expected }),
                Some(tensor) if tensor.dims() != expected => {
                    let found = tensor.dims().to_vec();
                    return Err(ModelError::WeightShape {
                        name,
                        expected,
                        found,
                    });
                }
                Some(tensor) => pairs.push((variable, tensor)),
            }
        }
        for (variable, tensor) in pairs {
            variable.set(&tensor.to_device(variable.device())?)?;
        }
        Ok(())
    }
}

/// Pairs every weight of an architecture with the tensor of its name, sorted by name.
pub(crate) fn fitting(
    specifications: Specifications,
    mut tensors: HashMap<String, Tensor>,
) -> Result<Vec<(String, Tensor)>> {
    let mut all = Vec::new();
    for (name, (shape, _)) in specifications {
        let expected = shape.dims().to_vec();
        let Some(tensor) = tensors.remove(&name) else {
            return Err(ModelError::MissingWeight { name, expected });
        };
        if tensor.dims() != expected {
            let found = tensor.dims().to_vec();
            return Err(ModelError::WeightShape {
                name,
                expected,
                found,
            });
        }
        if !tensor.dtype().is_float() {
            let found = format!("{:?}", tensor.dtype());
            return Err(ModelError::WeightType { name, found });
        }
        all.push((name, tensor));
    }
    if !tensors.is_empty() {
        let mut names: Vec<_> = tensors.into_keys().collect();
        names.sort();
        return Err(ModelError::UnexpectedWeights { names });
    }
    Ok(all)
}

/// Checks that the values of the weight called `name` are finite.
///
/// # Errors
/// [`ModelError::WeightNotFinite`] with the first that is not.
pub fn require_finite(name: &str, tensor: &Tensor) -> Result<()> {
    match first_not_finite(tensor)? {
        None => Ok(()),
        Some((position, value)) => Err(ModelError::WeightNotFinite {
            name: name.to_string(),
            value,
            position,
            count: tensor.elem_count(),
        }),
    }
}

/// Reads all tensors of a safetensors file, on the CPU.
///
/// # Errors
/// [`ModelError::Unreadable`] when the file is missing, damaged or no safetensors file.
pub fn read_safetensors(path: impl AsRef<Path>) -> Result<HashMap<String, Tensor>> {
    let path = path.as_ref();
    let unreadable = |finding: String| ModelError::Unreadable {
        path: path.to_path_buf(),
        finding,
    };
    let bytes = read_regular(path, u64::MAX).map_err(|error| unreadable(error.to_string()))?;
    candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .map_err(|error| unreadable(error.to_string()))
}

pub(crate) fn initial_values(init: Init, count: usize, key: RngKey) -> Result<Vec<f32>> {
    let mut rng = key.rng();
    let bad = |error: &dyn std::fmt::Display| {
        ModelError::Tensor(candle_core::Error::Msg(format!(
            "initializer {init:?}: {error}"
        )))
    };
    Ok(match init {
        Init::Const(value) => vec![value as f32; count],
        Init::Uniform { lo, up } => {
            let uniform = Uniform::new(lo as f32, up as f32).map_err(|e| bad(&e))?;
            uniform.sample_iter(&mut rng).take(count).collect()
        }
        Init::Randn { mean, stdev } => {
            let normal = Normal::new(mean as f32, stdev as f32).map_err(|e| bad(&e))?;
            normal.sample_iter(&mut rng).take(count).collect()
        }
        Init::Kaiming { .. } => return Err(bad(&"unsupported")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PerceiverConfig;

    fn config() -> PerceiverConfig {
        PerceiverConfig {
            image_size: 8,
            latent_dim: 2,
            projection_dim: 4,
            num_heads: 1,
            num_transformer_blocks: 1,
            ffn_units: vec![4],
            classifier_units: vec![3],
            ..PerceiverConfig::default()
        }
    }

    /// Returns the error message for these weights with one of them changed.
    fn refusal(name: &str, change: impl FnOnce(Tensor) -> Tensor) -> String {
        let config = config();
        let trained = Parameters::from_seed(&config, 1, &Device::Cpu).unwrap();
        let mut tensors = trained.tensors();
        let changed = change(tensors[name].copy().unwrap());
        tensors.insert(name.to_string(), changed);
        let loaded = Parameters::from_loaded_tensors(&config, tensors, &Device::Cpu);
        loaded.map(drop).unwrap_err().to_string()
    }

    #[test]
    fn non_finite_weights_are_errors_by_name() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let message = refusal("latents", |latents| {
                let mut values: Vec<f32> = latents.flatten_all().unwrap().to_vec1().unwrap();
                values[5] = value;
                Tensor::from_vec(values, latents.shape(), &Device::Cpu).unwrap()
            });
            let expected = format!(
                "weights: latents: expected finite numbers, found {value} at position 5 of 8"
            );
            assert_eq!(message, expected);
        }
        // Finite in its own type, but infinite as `f32`.
        let message = refusal("cross_attention.scale", |scale| {
            Tensor::new(1e300_f64, &Device::Cpu)
                .unwrap()
                .reshape(scale.shape())
                .unwrap()
        });
        assert!(message.contains("cross_attention.scale"), "{message}");
    }

    #[test]
    fn integer_weights_are_rejected() {
        for dtype in [DType::I64, DType::U8, DType::U32] {
            let message = refusal("latents", |latents| latents.to_dtype(dtype).unwrap());
            let expected = format!(
                "weights: latents: expected a floating-point type such as F32, found {dtype:?}"
            );
            assert_eq!(message, expected);
        }
    }

    #[test]
    fn other_floating_types_are_loaded() {
        let config = config();
        let trained = Parameters::from_seed(&config, 1, &Device::Cpu).unwrap();
        for dtype in [DType::F64, DType::F16, DType::BF16] {
            let tensors = trained.tensors().into_iter();
            let tensors = tensors
                .map(|(name, tensor)| (name, tensor.to_dtype(dtype).unwrap()))
                .collect();
            let loaded = Parameters::from_loaded_tensors(&config, tensors, &Device::Cpu).unwrap();
            assert_eq!(loaded.get("latents").unwrap().dtype(), DType::F32);
        }
    }

    /// No value is shared with the loaded tensors, which may change.
    #[test]
    fn loaded_weights_are_copies() {
        let config = config();
        let trained = Parameters::from_seed(&config, 1, &Device::Cpu).unwrap();
        let tensors = trained.tensors().into_iter();
        let tensors = tensors
            .map(|(name, tensor)| (name, tensor.detach()))
            .collect();
        let loaded = Parameters::from_loaded_tensors(&config, tensors, &Device::Cpu).unwrap();
        let latents = loaded.get("latents").unwrap();
        latents.set(&latents.zeros_like().unwrap()).unwrap();
        let before = trained.get("latents").unwrap();
        assert!(
            before
                .abs()
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
                > 0.0
        );
    }
}
