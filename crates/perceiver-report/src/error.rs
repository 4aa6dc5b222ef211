//! Errors of reports, one variant each.

use std::path::PathBuf;

use perceiver_data::DataError;
use perceiver_model::ModelError;
use perceiver_train::TrainError;

/// Errors of creating a report, a comparison or an attention map.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A file of a run was rejected.
    #[error(transparent)]
    Train(#[from] TrainError),

    /// An image was rejected.
    #[error(transparent)]
    Data(#[from] DataError),

    /// The model rejected an image.
    #[error(transparent)]
    Model(#[from] ModelError),

    /// candle rejected a tensor operation.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),

    /// A page could not be rendered.
    #[error(transparent)]
    Page(#[from] askama::Error),

    /// An image could not be encoded.
    #[error(transparent)]
    Encoding(#[from] image::ImageError),

    /// A chart could not be drawn.
    #[error("cannot draw {chart}: {finding}")]
    Chart {
        /// The title of the chart.
        chart: String,
        /// The cause.
        finding: String,
    },

    /// Files of a run contradict each other.
    #[error("{}: expected {expected}, found {finding}", path.display())]
    Disagree {
        /// The file.
        path: PathBuf,
        /// The value that the other files imply.
        expected: String,
        /// The value found.
        finding: String,
    },

    /// A latent or an iteration that the model does not have.
    #[error("{what}: expected 1 to {most}, found {found}")]
    NotThere {
        /// The requested item: "latent" or "iteration".
        what: &'static str,
        /// The number available.
        most: usize,
        /// The number requested.
        found: usize,
    },

    /// The model has no attention over a square grid of tokens.
    #[error("attention: expected a model with attention over a square grid of tokens, found none")]
    NoAttention,

    /// The model's attention is NaN or infinite.
    #[error(
        "attention: expected finite values, found NaN or infinity; the model's weights are too large"
    )]
    AttentionNotFinite,

    /// Too few runs to compare, or more than there are colors.
    #[error("runs: expected 2 to {most}, found {found}")]
    RunCount {
        /// The maximum number of runs.
        most: usize,
        /// The number given.
        found: usize,
    },

    /// Runs that cannot be compared.
    #[error("{a} and {b} cannot be compared: expected the same {what}, found {in_a} and {in_b}")]
    NotComparable {
        /// The first run.
        a: String,
        /// The second run.
        b: String,
        /// The property that differs.
        what: &'static str,
        /// Its value in the first run.
        in_a: String,
        /// Its value in the second run.
        in_b: String,
    },
}

/// The result type of this crate.
pub type Result<T, E = ReportError> = std::result::Result<T, E>;
