//! Weight decay: which parameters it applies to.

use serde::{Deserialize, Serialize};

/// The parameters that weight decay applies to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecayScope {
    /// The weights of dense layers only: no norms, biases, positions, latents or scales.
    #[default]
    Weights,
    /// All parameters, the default of Keras and TensorFlow Addons.
    All,
}

impl DecayScope {
    /// Returns whether weight decay applies to the parameter `name`.
    ///
    /// ```
    /// use perceiver_train::DecayScope;
    ///
    /// assert!(DecayScope::Weights.includes("transformer.0.ffn.1.weight"));
    /// assert!(!DecayScope::Weights.includes("transformer.0.norm_ffn.weight"));
    /// assert!(!DecayScope::Weights.includes("perceiver.encoder.cross_attention.layernorm.weight"));
    /// assert!(!DecayScope::Weights.includes("latents"));
    /// assert!(DecayScope::All.includes("latents"));
    /// ```
    pub fn includes(self, name: &str) -> bool {
        let of_norm = || name.split('.').any(|part| part.contains("norm"));
        match self {
            Self::All => true,
            Self::Weights => name.ends_with(".weight") && !of_norm(),
        }
    }
}
