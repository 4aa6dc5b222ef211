//! The three image classifiers of Perceiver IO, which differ in how pixels become tokens.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::perceiver_io::fourier_positions;

/// Width of a 1 x 1 convolution's features, and of learned positions.
pub(crate) const LEARNED_CHANNELS: usize = 256;

/// Number of channels of the convolutional stem.
pub(crate) const STEM_CHANNELS: usize = 64;

/// The input preprocessor of a model: pixels to tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputKind {
    /// A 1 x 1 convolution of every pixel, and projected learned positions
    /// (`deepmind/vision-perceiver-learned`).
    Learned,
    /// Pixel values and Fourier positions (`deepmind/vision-perceiver-fourier`).
    #[default]
    Fourier,
    /// A 7 x 7 convolution with batch norm and max pooling, and Fourier positions
    /// (`deepmind/vision-perceiver-conv`).
    Conv,
}

impl InputKind {
    /// Determines the preprocessor by the names of a checkpoint's tensors. The class names in a
    /// `config.json` changed over time.
    pub fn of_tensors<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        for name in names {
            let Some(name) = name.strip_prefix("perceiver.input_preprocessor.") else {
                continue;
            };
            if name.starts_with("convnet_1x1.") {
                return Self::Learned;
            }
            if name.starts_with("convnet.") {
                return Self::Conv;
            }
        }
        Self::Fourier
    }

    /// Determines the preprocessor by the class of the model that `architectures` of a
    /// `config.json` names, if it names one.
    pub(crate) fn of_class(config: &Value) -> Option<Self> {
        match config.get("architectures")?.get(0)?.as_str()? {
            "PerceiverForImageClassification" => Some(Self::Learned), // its name until 2022
            class => Self::ALL.into_iter().find(|kind| kind.class() == class),
        }
    }

    const ALL: [Self; 3] = [Self::Learned, Self::Fourier, Self::Conv];

    /// Returns the name of the model's class in transformers.
    pub const fn class(self) -> &'static str {
        match self {
            Self::Learned => "PerceiverForImageClassificationLearned",
            Self::Fourier => "PerceiverForImageClassificationFourier",
            Self::Conv => "PerceiverForImageClassificationConvProcessing",
        }
    }

    /// Returns the width of a token: features and position.
    pub fn token_width(self) -> usize {
        match self {
            Self::Learned => 2 * LEARNED_CHANNELS,
            Self::Fourier => 3 + fourier_positions::WIDTH,
            Self::Conv => STEM_CHANNELS + fourier_positions::WIDTH,
        }
    }

    /// Returns the name of the model's class in transformers.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Learned => "PerceiverForImageClassificationLearned",
            Self::Fourier => "PerceiverForImageClassificationFourier",
            Self::Conv => "PerceiverForImageClassificationConvProcessing",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_tensor_names() {
        let of = |name: &str| InputKind::of_tensors(["perceiver.embeddings.latents", name]);
        let learned = "perceiver.input_preprocessor.convnet_1x1.weight";
        assert_eq!(of(learned), InputKind::Learned);
        let conv = "perceiver.input_preprocessor.convnet.conv.weight";
        assert_eq!(of(conv), InputKind::Conv);
        assert_eq!(of("convnet.conv.weight"), InputKind::Fourier);
    }

    #[test]
    fn kinds_are_told_by_class_names() {
        for kind in InputKind::ALL {
            let config = serde_json::json!({ "architectures": [kind.class()] });
            assert_eq!(InputKind::of_class(&config), Some(kind));
        }
        let old = serde_json::json!({ "architectures": ["PerceiverForImageClassification"] });
        assert_eq!(InputKind::of_class(&old), Some(InputKind::Learned));
        for other in [
            "{}",
            r#"{"architectures": []}"#,
            r#"{"architectures": ["PerceiverForMaskedLM"]}"#,
        ] {
            assert_eq!(
                InputKind::of_class(&serde_json::from_str(other).unwrap()),
                None
            );
        }
    }

    #[test]
    fn token_widths_are_those_of_the_checkpoints() {
        let kinds = [InputKind::Learned, InputKind::Fourier, InputKind::Conv];
        assert_eq!(kinds.map(InputKind::token_width), [512, 261, 322]);
    }
}
