//! Options of the export.

use std::fmt;
use std::str::FromStr;

use perceiver_data::Preprocessing;

/// The precision of weights and activations in the graph. Inputs and outputs are `f32` in either.
///
/// ```
/// use perceiver_export::OnnxPrecision;
///
/// assert_eq!("f16".parse(), Ok(OnnxPrecision::F16));
/// assert_eq!(OnnxPrecision::default().to_string(), "f32");
/// assert!("bf16".parse::<OnnxPrecision>().is_err());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnnxPrecision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits: half the size, and three digits.
    F16,
}

impl fmt::Display for OnnxPrecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        })
    }
}

impl FromStr for OnnxPrecision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = [Self::F32, Self::F16];
        let named = named.into_iter().find(|one| one.to_string() == text);
        named.ok_or_else(|| format!("expected f32 or f16, found {text:?}"))
    }
}

/// What an exported graph computes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExportOptions {
    /// The precision of weights and activations.
    pub precision: OnnxPrecision,
    /// Whether the result is probabilities instead of logits.
    pub softmax: bool,
    /// Whether probabilities are averaged over an image and its mirror image. Without `softmax`, the
    /// result is then the logarithm of the mean probabilities, whose softmax they are.
    pub flip_average: bool,
    /// The preprocessing inside the graph. With it, the input is `images`, u8
    /// `[batch, height, width, 3]` of any height and width; without, it is `input`, the normalized
    /// tensor f32 `[batch, 3, size, size]` that the model takes.
    pub preprocessing: Option<GraphPreprocessing>,
}

/// Preprocessing inside the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphPreprocessing {
    /// The steps from bytes to the model's input.
    pub steps: Preprocessing,
    /// The shorter side, in pixels, to which larger images are downscaled before; `None` for not at
    /// all. It has no effect on steps of transformers.
    pub shorter_side: Option<usize>,
}
