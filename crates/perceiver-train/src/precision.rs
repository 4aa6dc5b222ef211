//! In what numbers a step computes.
//!
//! Weights, their moments and averages, gradients as the optimizer gets them, losses and all sums are `f32` at any precision (Micikevicius
//! et al., "Mixed precision training", 2018). `bf16` has the exponents of `f32`, so that losses need no scaling.

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};

/// The numbers that products are made of, as people write them: `f32`, `tf32`, `bf16`.
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
    /// 32 bits, of which NVIDIA's matrix units look at 19.
    Tf32,
    /// What goes from operation to operation, and copies of the weights, have 16 bits.
    Bf16,
}

impl Precision {
    /// The type of what goes from operation to operation.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 | Self::Tf32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Makes this process compute so on `device`.
    ///
    /// # Errors
    /// [`TrainError::Device`] for `tf32` on what is no NVIDIA GPU.
    pub fn set_up(self, device: &Device) -> Result<()> {
        #[cfg(feature = "cuda")]
        candle_core::cuda_backend::set_gemm_reduced_precision_f32(self == Self::Tf32);
        if self == Self::Tf32 && !device.is_cuda() {
            return Err(TrainError::Device {
                device: format!("{:?}", device.location()).to_lowercase(),
                expected: "an NVIDIA GPU, since the precision is tf32".to_string(),
                finding: "another; f32 and bf16 are for every device".to_string(),
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
