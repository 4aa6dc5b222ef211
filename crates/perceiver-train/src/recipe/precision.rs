//! The precision of training: `f32`, `tf32` or `bf16`.
//!
//! Weights, moments, EMA, gradients as the optimizer gets them, losses and all sums are `f32` in
//! every precision (Micikevicius et al., "Mixed precision training", 2018). `bf16` has the
//! exponents of `f32`, so it needs no loss scaling.

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};

/// The compute precision: `f32`, `tf32` or `bf16`.
///
/// ```
/// use perceiver_train::Precision;
///
/// assert_eq!("bf16".parse::<Precision>()?, Precision::Bf16);
/// assert_eq!(Precision::default().to_string(), "f32");
/// # Ok::<(), perceiver_train::TrainError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits everywhere.
    #[default]
    F32,
    /// 32 bits, of which NVIDIA's tensor cores use 19.
    Tf32,
    /// 16 bits for activations and for working copies of the weights.
    Bf16,
}

impl Precision {
    /// Returns the type of activations.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 | Self::Tf32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Sets the precision of this process on `device`.
    ///
    /// # Errors
    /// [`TrainError::Device`] for `tf32` on anything but an NVIDIA GPU.
    pub fn set_up(self, device: &Device) -> Result<()> {
        #[cfg(feature = "cuda")]
        candle_core::cuda_backend::set_gemm_reduced_precision_f32(self == Self::Tf32);
        if self == Self::Tf32 && !device.is_cuda() {
            return Err(TrainError::Device {
                device: format!("{:?}", device.location()).to_lowercase(),
                expected: "an NVIDIA GPU for precision tf32".to_string(),
                finding: "another device; f32 and bf16 work on every device".to_string(),
            });
        }
        Ok(())
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Precision {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::F32, Self::Tf32, Self::Bf16];
        let named = all
            .into_iter()
            .find(|precision| precision.to_string() == text);
        named.ok_or_else(|| TrainError::Recipe {
            name: "--precision".to_string(),
            finding: format!("expected f32, tf32 or bf16, found {text:?}"),
        })
    }
}
