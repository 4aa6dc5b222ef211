//! Every way in which a model or its weights can be refused, one variant each.

use std::path::PathBuf;

/// Why a configuration or a set of weights was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// Fields of a configuration disagree with one another, or have no meaning.
    #[error("model configuration: {fields}: expected {expected}, found {found}")]
    Config {
        /// The field or fields.
        fields: &'static str,
        /// What was expected, in words.
        expected: String,
        /// The values found.
        found: String,
    },

    /// A weight that the architecture needs is not among those given.
    #[error("weights: {name} is missing: expected shape {expected:?}")]
    MissingWeight {
        /// Name of the weight.
        name: String,
        /// Its shape.
        expected: Vec<usize>,
    },

    /// A weight has another shape than the architecture gives it.
    #[error("weights: {name}: expected shape {expected:?}, found {found:?}")]
    WeightShape {
        /// Name of the weight.
        name: String,
        /// Its shape by the configuration.
        expected: Vec<usize>,
        /// Its shape in the weights given.
        found: Vec<usize>,
    },

    /// A weight is of a type that holds no weights, such as integers.
    #[error("weights: {name}: expected a floating-point type such as F32, found {found}")]
    WeightType {
        /// Name of the weight.
        name: String,
        /// Its type, as candle calls it.
        found: String,
    },

    /// A weight has a value that is NaN or infinite, as a training that diverged leaves it, or a damaged file.
    #[error(
        "weights: {name}: expected finite numbers, found {value} at position {position} of {count}"
    )]
    WeightNotFinite {
        /// Name of the weight.
        name: String,
        /// The first value that is none, as an `f32`.
        value: f32,
        /// Its place among the weight's values, from 0.
        position: usize,
        /// How many values the weight has.
        count: usize,
    },

    /// Weights were given that the architecture has no place for.
    #[error("weights: found {} that this architecture does not have: {}", names.len(), names.join(", "))]
    UnexpectedWeights {
        /// Their names.
        names: Vec<String>,
    },

    /// A weight file cannot be read as safetensors.
    #[error("cannot read weights from {}: expected a safetensors file: {finding}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What stood in the way.
        finding: String,
    },

    /// What is wrong with the weights in a file.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<ModelError>,
    },

    /// Images of another shape than the configuration says.
    #[error("images: expected [batch, {channels}, {image_size}, {image_size}], found {found:?}")]
    ImageShape {
        /// Colour channels.
        channels: usize,
        /// Height and width.
        image_size: usize,
        /// The shape given.
        found: Vec<usize>,
    },

    /// What should be a checkpoint's `config.json` is not.
    #[error("{}: expected the config.json of a Perceiver checkpoint, found {finding}", path.display())]
    NoConfig {
        /// The file.
        path: PathBuf,
        /// What was found.
        finding: String,
    },

    /// The Hugging Face Hub does not give a model.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] perceiver_hub::HubError),

    /// candle refused a tensor operation.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// The result of building or running a model.
pub type Result<T> = std::result::Result<T, ModelError>;
