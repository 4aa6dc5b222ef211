//! Gradients by parameter name, and clipping by their global norm.

use std::collections::{BTreeMap, btree_map};

use candle_core::Tensor;
use perceiver_model::Parameters;
use perceiver_ops::{Tape, ema_update, sum_of_all_squares, sum_of_squares, widen_all};

use crate::error::{Result, TrainError};

/// Gradients of a loss with respect to all parameters, sorted by name.
#[derive(Debug, Clone, Default)]
pub struct Gradients {
    tensors: BTreeMap<String, Tensor>,
    /// A pending factor on all gradients: a scalar on their device.
    factor: Option<Tensor>,
}

impl Gradients {
    /// Computes the gradients of a scalar `loss` that was computed since the tape was started.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use perceiver_model::{Parameters, PerceiverConfig};
    /// use perceiver_ops::{RngKey, Mode, Tape};
    /// use perceiver_train::{Adam, Gradients, Optimizer, cross_entropy};
    ///
    /// let config = PerceiverConfig { image_size: 8, latent_dim: 4, ..PerceiverConfig::default() };
    /// let parameters = Parameters::from_seed(&config, 0, &Device::Cpu)?;
    /// let model = parameters.model(&config)?;
    /// let images = Tensor::zeros((2, 3, 8, 8), candle_core::DType::F32, &Device::Cpu)?;
    /// let labels = Tensor::new(&[7u32, 9], &Device::Cpu)?;
    ///
    /// let tape = Tape::start();
    /// let logits = model.forward(&images, Mode::Training(RngKey::new(0)))?;
    /// let loss = cross_entropy(&logits, &labels)?;
    /// let gradients = Gradients::of(tape, &loss, &parameters)?;
    /// Adam::new(0.001).step(&parameters, &gradients)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`TrainError::NoGradient`] when a parameter gets no gradient. candle silently omits it where
    /// an operation has no backward pass, and a model that trains only its last layer still seems
    /// to train.
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

    /// Converts the gradients to `f32`.
    pub(crate) fn widened(self) -> Result<Self> {
        let (names, tensors): (Vec<_>, Vec<_>) = self.tensors.into_iter().unzip();
        let tensors = widen_all(&tensors)?;
        Ok(Self {
            tensors: names.into_iter().zip(tensors).collect(),
            ..self
        })
    }

    /// Creates gradients from tensors by parameter name.
    pub fn from_tensors(tensors: impl IntoIterator<Item = (String, Tensor)>) -> Self {
        Self::new(tensors.into_iter().collect())
    }

    /// Returns the gradient of the parameter `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Returns the gradient of the parameter `name`, or an error.
    ///
    /// # Errors
    /// [`TrainError::NoGradient`] when there is none.
    pub fn of_parameter(&self, name: &str) -> Result<&Tensor> {
        self.get(name).ok_or_else(|| TrainError::NoGradient {
            name: name.to_string(),
        })
    }

    /// Returns the pending scalar factor that an optimizer multiplies all gradients by, if there is
    /// one.
    pub fn factor(&self) -> Option<&Tensor> {
        self.factor.as_ref()
    }

    /// Multiplies the gradients by the pending factor, for optimizers that do not.
    pub(crate) fn with_factor_applied(mut self) -> Result<Self> {
        if let Some(factor) = self.factor.take() {
            for gradient in self.tensors.values_mut() {
                *gradient = gradient.broadcast_mul(&factor)?;
            }
        }
        Ok(self)
    }

    /// Moves these gradients in place towards `others` by `share` of the difference. This averages
    /// the gradients of micro-batches into that of the batch, each weighted by its share of the
    /// samples so far.
    ///
    /// # Errors
    /// When a gradient is missing or candle refuses an operation.
    pub fn move_towards(&self, others: &Self, share: f64) -> Result<()> {
        for (name, gradient) in &self.tensors {
            ema_update(gradient, others.of_parameter(name)?, share as f32)?;
        }
        Ok(())
    }

    /// Returns the sum of squares of every gradient, by name.
    ///
    /// # Errors
    /// When candle refuses an operation.
    pub(crate) fn squares(&self) -> Result<Vec<(&str, f64)>> {
        let gradients = self.tensors.iter();
        gradients
            .map(|(name, gradient)| Ok((name.as_str(), sum_of_squares(gradient)?)))
            .collect()
    }

    /// Returns the global norm: the Euclidean norm over all gradients.
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

    /// Returns the squared global norm as a scalar tensor, without waiting for a GPU.
    pub(crate) fn sum_of_squares(&self) -> Result<Tensor> {
        let tensors: Vec<&Tensor> = self.tensors.values().collect();
        Ok(sum_of_all_squares(&tensors)?)
    }

    /// Scales the gradients down so that their global norm is at most `max_norm`: Keras's
    /// `global_clipnorm`.
    ///
    /// # Errors
    /// When candle refuses an operation.
    pub fn clipped(self, max_norm: f64) -> Result<Self> {
        let norm = self.global_norm()?;
        self.scaled_down(norm, max_norm)
    }

    /// [`Gradients::clipped`] with a known global norm.
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

    /// [`Gradients::clipped`] with the squared norm as a tensor: sets a pending factor.
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

    /// Iterates over names and gradients, sorted by name.
    fn into_iter(self) -> Self::IntoIter {
        self.tensors.into_iter()
    }
}
