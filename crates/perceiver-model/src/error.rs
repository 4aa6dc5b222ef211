//! Errors of the model and its weights, one variant each.

use std::path::PathBuf;

use crate::hooks::Features;

/// Errors of a configuration or a set of weights.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// Fields of a configuration are invalid or disagree.
    #[error("model configuration: {fields}: expected {expected}, found {found}")]
    Config {
        /// Name of the field or fields.
        fields: &'static str,
        /// The expected values, in words.
        expected: String,
        /// The values found.
        found: String,
    },

    /// A configuration names a kind of model whose code is not in this program.
    #[error("model configuration: type: expected {}, found {found:?}, whose code is not in this program", crate::ModelConfig::TYPES.join(", "))]
    UnknownModel {
        /// The kind of model.
        found: String,
    },

    /// A model of a program's own does not show the stage of these features.
    #[error(
        "the model has no {features:?} features: expected it to pass them to the probe of forward_probed"
    )]
    NoFeatures {
        /// The requested features.
        features: Features,
    },

    /// A weight of the architecture is missing.
    #[error("weights: {name} is missing: expected shape {expected:?}")]
    MissingWeight {
        /// Name of the weight.
        name: String,
        /// Its expected shape.
        expected: Vec<usize>,
    },

    /// A weight has the wrong shape.
    #[error("weights: {name}: expected shape {expected:?}, found {found:?}")]
    WeightShape {
        /// Name of the weight.
        name: String,
        /// Its shape by the configuration.
        expected: Vec<usize>,
        /// Its shape in the given weights.
        found: Vec<usize>,
    },

    /// A weight has no floating-point type, for example integers.
    #[error("weights: {name}: expected a floating-point type such as F32, found {found}")]
    WeightType {
        /// Name of the weight.
        name: String,
        /// Its type, in candle's notation.
        found: String,
    },

    /// A weight has a NaN or infinite value, after a training that diverged or in a damaged file.
    #[error(
        "weights: {name}: expected finite numbers, found {value} at position {position} of {count}"
    )]
    WeightNotFinite {
        /// Name of the weight.
        name: String,
        /// The first such value, as an `f32`.
        value: f32,
        /// Its position among the weight's values, from 0.
        position: usize,
        /// Number of values of the weight.
        count: usize,
    },

    /// The given weights include some that the architecture does not have.
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
        /// The reason.
        finding: String,
    },

    /// A weight file cannot be read as a PyTorch state dict.
    #[error(
        "cannot read weights from {}: expected a state dict that torch.save wrote: {finding}",
        path.display()
    )]
    UnreadableStateDict {
        /// The file.
        path: PathBuf,
        /// The reason.
        finding: String,
    },

    /// An index of weights in several files is invalid, or its files do not fit it.
    #[error("{}: expected an index of weights in several safetensors files: {finding}", path.display())]
    WeightIndex {
        /// The index.
        path: PathBuf,
        /// The reason.
        finding: String,
    },

    /// A directory has no weight file.
    #[error(
        "{}: expected model.safetensors, model.safetensors.index.json or pytorch_model.bin, found none",
        directory.display()
    )]
    NoWeights {
        /// The directory.
        directory: PathBuf,
    },

    /// An error in the weights of a file.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// The error.
        source: Box<ModelError>,
    },

    /// The shape of the images differs from the configuration.
    #[error("images: expected [batch, {channels}, {image_size}, {image_size}], found {found:?}")]
    ImageShape {
        /// Number of colour channels.
        channels: usize,
        /// Height and width.
        image_size: usize,
        /// The given shape.
        found: Vec<usize>,
    },

    /// A Perceiver IO model does not take images of this shape.
    #[error("images: expected {expected}, found {found:?}")]
    ImageDims {
        /// The expected shape, in words.
        expected: &'static str,
        /// The given shape.
        found: Vec<usize>,
    },

    /// A file is not the `config.json` of a checkpoint.
    #[error("{}: expected the config.json of a Perceiver checkpoint, found {finding}", path.display())]
    NoConfig {
        /// The file.
        path: PathBuf,
        /// A description of the content, or the error of reading it.
        finding: String,
    },

    /// The Hugging Face Hub does not provide a model.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] perceiver_hub::HubError),

    /// A tensor operation of candle failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// The result type of this crate.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;
