//! Errors of the export, one variant each.

use std::path::PathBuf;

use perceiver_model::ModelConfig;

/// Errors of exporting a model or of checking an exported file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The model is of a kind whose layers are not known here.
    #[error(
        "model: expected one of the kinds {}, found {found}, a model of another program, whose layers the export \
         does not know",
        ModelConfig::TYPES.join(", ")
    )]
    UnknownModel {
        /// The kind.
        found: String,
    },

    /// A weight of the architecture is missing.
    #[error("weights: {name} is missing")]
    MissingWeight {
        /// Name of the weight.
        name: String,
    },

    /// A weight is too large for half precision.
    #[error("{name}: expected numbers of f16, from -65504 to 65504, found {value}; export in f32")]
    OutOfRange {
        /// Name of the weight, or of a product of weights.
        name: String,
        /// The value.
        value: f32,
    },

    /// The preprocessing is not one of the model.
    #[error(
        "preprocessing: expected images of {expected} pixels, the size that the model takes, found {found}"
    )]
    ImageSize {
        /// Height and width that the model takes.
        expected: usize,
        /// Height and width after preprocessing.
        found: usize,
    },

    /// The model takes images of other channels than those of files.
    #[error(
        "preprocessing: expected a model of 3 channels, found {found}; export it without preprocessing"
    )]
    Channels {
        /// The number of channels that the model takes.
        found: usize,
    },

    /// A file that would be written is there already.
    #[error("{}: expected no such file, found one; choose another name or remove it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },

    /// A file cannot be written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was done, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },

    /// Another engine cannot run an exported file.
    #[cfg(feature = "verify")]
    #[error("{}: expected a model that tract can run: {finding}", path.display())]
    Engine {
        /// The file.
        path: PathBuf,
        /// The error of the engine.
        finding: String,
    },

    /// Invalid preprocessing.
    #[error(transparent)]
    Data(#[from] perceiver_data::DataError),

    /// An invalid configuration, or weights that do not fit it.
    #[error(transparent)]
    Model(#[from] perceiver_model::ModelError),

    /// A configuration cannot be written as JSON.
    #[error("metadata: {0}")]
    Json(#[from] serde_json::Error),

    /// A tensor operation of candle failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// The result type of this crate.
pub type Result<T, E = ExportError> = std::result::Result<T, E>;
