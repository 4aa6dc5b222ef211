//! What a step computes with: the parameters, or copies of them in fewer bits that follow them.

use candle_core::{Tensor, Var};
use perceiver_model::{Parameters, Perceiver, PerceiverConfig};
use perceiver_ops::{Tape, copy_all};

use crate::error::Result;
use crate::gradients::Gradients;
use crate::precision::Precision;

/// A model that learns in a precision, for parameters that stay in `f32` with an optimizer.
///
/// ```
/// use candle_core::{DType, Device};
/// use perceiver_model::{Parameters, PerceiverConfig};
/// use perceiver_train::{Precision, WorkingCopy};
///
/// let config = PerceiverConfig { image_size: 8, latent_dim: 4, ..PerceiverConfig::default() };
/// let parameters = Parameters::from_seed(&config, 0, &Device::Cpu)?;
/// let copy = WorkingCopy::new(&parameters, &config, Precision::Bf16, false)?;
/// assert_eq!(copy.model(&parameters)?.dtype(), DType::BF16);
/// # Ok::<(), perceiver_train::TrainError>(())
/// ```
#[derive(Debug)]
pub struct WorkingCopy {
    model: Perceiver,
    /// None where the model is on the parameters themselves.
    copies: Option<Parameters>,
}

impl WorkingCopy {
    /// That of `parameters`; whether backward computes inner values again, as [`Perceiver::with_recomputation`] has it.
    ///
    /// # Errors
    /// When `config` is not the one the parameters were made for, or the device has no room.
    pub fn new(
        parameters: &Parameters,
        config: &PerceiverConfig,
        precision: Precision,
        recompute: bool,
    ) -> Result<Self> {
        let dtype = precision.dtype();
        let is_other = parameters
            .iter()
            .any(|(_, variable)| variable.dtype() != dtype);
        let copies = is_other.then(|| -> Result<Parameters> {
            let copy = |(name, variable): (&str, &Var)| {
                Ok((name.to_string(), variable.detach().to_dtype(dtype)?))
            };
            let copies = parameters.iter().map(copy).collect::<Result<Vec<_>>>()?;
            Ok(Parameters::from_variables(copies)?)
        });
        let copies = copies.transpose()?;
        let model = copies.as_ref().unwrap_or(parameters).model(config)?;
        Ok(Self {
            model: model.with_recomputation(recompute),
            copies,
        })
    }

    /// The model on `parameters` as they are now.
    ///
    /// # Errors
    /// When candle refuses an operation.
    pub fn model(&self, parameters: &Parameters) -> Result<&Perceiver> {
        if let Some(copies) = &self.copies {
            let pairs = copies.iter().zip(parameters.iter());
            let pairs: Vec<(&Tensor, &Tensor)> = pairs
                .map(|((_, copy), (_, variable))| (copy.as_tensor(), variable.as_tensor()))
                .collect();
            copy_all(&pairs)?;
        }
        Ok(&self.model)
    }

    /// The gradients of a scalar `loss` that the model was asked for since the tape was started, in `f32`.
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
