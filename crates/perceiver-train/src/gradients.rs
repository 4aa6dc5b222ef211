//! The gradient of every parameter, by name.

use std::collections::{BTreeMap, btree_map};

use candle_core::Tensor;
use perceiver_model::Parameters;
use perceiver_ops::{Tape, move_mean, sum_of_all_squares, sum_of_squares, widen_all};

use crate::error::{Result, TrainError};

/// Gradients of a loss with respect to all parameters, sorted by name.
#[derive(Debug, Clone, Default)]
pub struct Gradients {
    tensors: BTreeMap<String, Tensor>,
    /// What all of them are still to be multiplied by, a scalar where they are.
    factor: Option<Tensor>,
}

impl Gradients {
    /// Differentiates a scalar `loss` that has been computed since the tape was started.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use perceiver_model::{Parameters, PerceiverConfig};
    /// use perceiver_ops::{Key, Mode, Tape};
    /// use perceiver_train::{Adam, Gradients, Optimizer, cross_entropy};
    ///
    /// let config = PerceiverConfig { image_size: 8, latent_dim: 4, ..PerceiverConfig::default() };
    /// let parameters = Parameters::from_seed(&config, 0, &Device::Cpu)?;
    /// let model = parameters.model(&config)?;
    /// let images = Tensor::zeros((2, 3, 8, 8), candle_core::DType::F32, &Device::Cpu)?;
    /// let labels = Tensor::new(&[7u32, 9], &Device::Cpu)?;
    ///
    /// let tape = Tape::start();
    /// let logits = model.forward(&images, Mode::Training(Key::new(0)))?;
    /// let loss = cross_entropy(&logits, &labels)?;
    /// let gradients = Gradients::of(tape, &loss, &parameters)?;
    /// Adam::new(0.001).step(&parameters, &gradients)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`TrainError::NoGradient`] when some parameter gets none: candle leaves it out in silence where an operation
    /// has no backward pass, and a model that trains its last layer only looks as if it trained.
    pub fn of(tape: Tape, loss: &Tensor, parameters: &Parameters) -> Result<Self> {
        let mut store = tape.backward(loss)?;
        let gradients = parameters.iter().map(|(name, variable)| {
            let name = name.to_string();
            match store.remove(variable) {
                Some(gradient) => Ok((name, gradient)),
                None => Err(TrainError::NoGradient { name }),
            }
        });
        gradients.collect::<Result<BTreeMap<_, _>>>().map(Self::new)
    }

    fn new(tensors: BTreeMap<String, Tensor>) -> Self {
        Self {
            tensors,
            factor: None,
        }
    }

    /// The same values in `f32`.
    pub(crate) fn widened(self) -> Result<Self> {
        let (names, tensors): (Vec<_>, Vec<_>) = self.tensors.into_iter().unzip();
        let tensors = widen_all(&tensors)?;
        Ok(Self {
            tensors: names.into_iter().zip(tensors).collect(),
            ..self
        })
    }

    /// Gradients from tensors by parameter name.
    pub fn from_tensors(tensors: impl IntoIterator<Item = (String, Tensor)>) -> Self {
        Self::new(tensors.into_iter().collect())
    }

    /// The gradient of the parameter called `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The gradient of the parameter called `name`, which an optimizer cannot do without.
    ///
    /// # Errors
    /// [`TrainError::NoGradient`] when there is none.
    pub fn of_parameter(&self, name: &str) -> Result<&Tensor> {
        self.get(name).ok_or_else(|| TrainError::NoGradient {
            name: name.to_string(),
        })
    }

    /// What an optimizer multiplies all of them by, a scalar, if there is such a thing.
    pub fn factor(&self) -> Option<&Tensor> {
        self.factor.as_ref()
    }

    /// Moves these gradients, where they are, towards `others` by `share` of the way: the gradient of a batch from those of its
    /// parts, each weighed by the share it has of what was added so far.
    ///
    /// # Errors
    /// When a gradient is missing or candle refuses an operation.
    pub fn move_towards(&self, others: &Self, share: f64) -> Result<()> {
        for (name, gradient) in &self.tensors {
            move_mean(gradient, others.of_parameter(name)?, share as f32)?;
        }
        Ok(())
    }

    /// The sum of squares of every gradient, by name.
    ///
    /// # Errors
    /// When candle refuses an operation.
    pub(crate) fn squares(&self) -> Result<Vec<(&str, f64)>> {
        let gradients = self.tensors.iter();
        gradients
            .map(|(name, gradient)| Ok((name.as_str(), sum_of_squares(gradient)?)))
            .collect()
    }

    /// The Euclidean norm over all gradients together.
    ///
    /// # Errors
    /// When candle refuses an operation.
    pub fn global_norm(&self) -> Result<f64> {
        let mut sum = 0.0;
        for gradient in self.tensors.values() {
            sum += sum_of_squares(gradient)?;
        }
        Ok(sum.sqrt())
    }

    /// The square of that norm as a scalar, for which a GPU is not waited.
    pub(crate) fn sum_of_squares(&self) -> Result<Tensor> {
        let tensors: Vec<&Tensor> = self.tensors.values().collect();
        Ok(sum_of_all_squares(&tensors)?)
    }

    /// The gradients scaled down so that their global norm is at most `max_norm`: Keras's `global_clipnorm`.
    ///
    /// # Errors
    /// When candle refuses an operation.
    pub fn clipped(self, max_norm: f64) -> Result<Self> {
        let norm = self.global_norm()?;
        self.scaled_down(norm, max_norm)
    }

    /// The same where their global norm is known.
    pub(crate) fn scaled_down(self, norm: f64, max_norm: f64) -> Result<Self> {
        if norm <= max_norm {
            return Ok(self);
        }
        let scaled = self.tensors.into_iter().map(|(name, gradient)| {
            let gradient = (gradient * (max_norm / norm))?;
            Ok((name, gradient))
        });
        scaled.collect::<Result<BTreeMap<_, _>>>().map(Self::new)
    }

    /// The same by a factor, where the square of the norm is a tensor.
    pub(crate) fn scaled_down_later(self, square: &Tensor, max_norm: f64) -> Result<Self> {
        let factor = (square.sqrt()?.recip()? * max_norm)?.minimum(1.0)?;
        Ok(Self {
            factor: Some(factor),
            ..self
        })
    }
}

impl IntoIterator for Gradients {
    type Item = (String, Tensor);
    type IntoIter = btree_map::IntoIter<String, Tensor>;

    /// Names and gradients, sorted by name.
    fn into_iter(self) -> Self::IntoIter {
        self.tensors.into_iter()
    }
}
