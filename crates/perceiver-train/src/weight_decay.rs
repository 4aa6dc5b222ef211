//! Which parameters weight decay shrinks, and by how much.

use serde::{Deserialize, Serialize};

/// The parameters that weight decay acts on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decayed {
    /// The weights of dense layers: no norms, biases, positions, latents or scales.
    #[default]
    Weights,
    /// Everything, as Keras and TensorFlow Addons do unless told otherwise.
    All,
}

impl Decayed {
    /// Whether the parameter called `name` shrinks.
    ///
    /// ```
    /// use perceiver_train::Decayed;
    ///
    /// assert!(Decayed::Weights.includes("transformer.0.ffn.1.weight"));
    /// assert!(!Decayed::Weights.includes("transformer.0.norm_ffn.weight"));
    /// assert!(!Decayed::Weights.includes("latents"));
    /// assert!(Decayed::All.includes("latents"));
    /// ```
    pub fn includes(self, name: &str) -> bool {
        let of_norm = || name.split('.').any(|part| part.starts_with("norm"));
        match self {
            Self::All => true,
            Self::Weights => name.ends_with(".weight") && !of_norm(),
        }
    }
}
