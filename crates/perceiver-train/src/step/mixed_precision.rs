//! Mixed precision: low-precision working copies of the f32 master weights.

use candle_core::Tensor;
use perceiver_model::{Classifier, ModelConfig, Parameters};
use perceiver_ops::{Tape, copy_all};

use crate::error::Result;
use crate::optim::gradients::Gradients;
use crate::recipe::precision::Precision;

/// The model of a training step in a compute precision. The parameters stay in `f32` as master
/// weights; at a lower precision, the model computes with working copies of them.
///
/// ```
/// use candle_core::{DType, Device};
/// use perceiver_model::{Parameters, PerceiverConfig};
/// use perceiver_train::{Precision, MixedPrecision};
///
/// let config = PerceiverConfig { image_size: 8, latent_dim: 4, ..PerceiverConfig::default() };
/// let parameters = Parameters::from_seed(&config, 0, &Device::Cpu)?;
/// let copy = MixedPrecision::new(&parameters, &config.into(), Precision::Bf16, false)?;
/// assert_eq!(copy.model(&parameters)?.dtype(), DType::BF16);
/// # Ok::<(), perceiver_train::TrainError>(())
/// ```
#[derive(Debug)]
pub struct MixedPrecision {
    model: Box<dyn Classifier>,
    /// The working copies; none if the model uses the parameters themselves.
    copies: Option<Parameters>,
}

impl MixedPrecision {
    /// Creates the model for `parameters`; `recompute` turns on activation checkpointing, see
    /// [`Classifier::set_activation_checkpointing`].
    ///
    /// # Errors
    /// When the parameters were made for another `config`, or the device is out of memory.
    pub fn new(
        parameters: &Parameters,
        config: &ModelConfig,
        precision: Precision,
        recompute: bool,
    ) -> Result<Self> {
        let dtype = precision.dtype();
        let is_other = parameters
            .iter()
            .any(|(_, variable)| variable.dtype() != dtype);
        let copies = is_other.then(|| parameters.to_dtype(dtype)).transpose()?;
        let mut model = copies.as_ref().unwrap_or(parameters).model(config)?;
        model.set_activation_checkpointing(recompute);
        Ok(Self { model, copies })
    }

    /// Updates the working copies from `parameters` and returns the model.
    ///
    /// # Errors
    /// When candle refuses an operation.
    pub fn model(&self, parameters: &Parameters) -> Result<&dyn Classifier> {
        if let Some(copies) = &self.copies {
            let pairs = copies.iter().zip(parameters.iter());
            let pairs: Vec<(&Tensor, &Tensor)> = pairs
                .map(|((_, copy), (_, variable))| (copy.as_tensor(), variable.as_tensor()))
                .collect();
            copy_all(&pairs)?;
        }
        Ok(&*self.model)
    }

    /// Computes the gradients, in `f32`, of a scalar `loss` of the model since the tape was
    /// started.
    ///
    /// # Errors
    /// As for [`Gradients::of`].
    pub fn gradients(
        &self,
        tape: Tape,
        loss: &Tensor,
        parameters: &Parameters,
    ) -> Result<Gradients> {
        match &self.copies {
            None => Gradients::of(tape, loss, parameters),
            Some(copies) => Gradients::of(tape, loss, copies)?.widened(),
        }
    }
}
