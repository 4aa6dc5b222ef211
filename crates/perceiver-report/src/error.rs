//! Every way in which a report can fail, one variant each.

use std::path::PathBuf;

use perceiver_data::DataError;
use perceiver_model::ModelError;
use perceiver_train::TrainError;

/// Why a report, a comparison or a picture of attention was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A file of a run was refused.
    #[error(transparent)]
    Train(#[from] TrainError),

    /// A picture was refused.
    #[error(transparent)]
    Data(#[from] DataError),

    /// The model refused a picture.
    #[error(transparent)]
    Model(#[from] ModelError),

    /// candle refused a tensor operation.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),

    /// A page could not be put together.
    #[error(transparent)]
    Page(#[from] askama::Error),

    /// A picture could not be encoded.
    #[error(transparent)]
    Picture(#[from] image::ImageError),

    /// A chart could not be drawn.
    #[error("cannot draw {chart}: {finding}")]
    Chart {
        /// What it would have shown.
        chart: String,
        /// What stood in the way.
        finding: String,
    },

    /// Files of a run do not belong together.
    #[error("{}: expected {expected}, found {finding}", path.display())]
    Disagree {
        /// The file.
        path: PathBuf,
        /// What the other files make one expect.
        expected: String,
        /// What is there.
        finding: String,
    },

    /// A latent or an iteration that the model does not have.
    #[error("{what}: expected 1 to {most}, found {found}")]
    NotThere {
        /// What was asked for: "latent", "iteration".
        what: &'static str,
        /// How many there are.
        most: usize,
        /// The number that was asked for.
        found: usize,
    },

    /// The model's attention is NaN or infinite.
    #[error(
        "attention: expected finite numbers: the model's weights are too large for the numbers it computes in"
    )]
    AttentionNotFinite,

    /// Too few runs to compare, or more than there are colours.
    #[error("runs: expected 2 to {most}, found {found}")]
    RunCount {
        /// How many can be told apart.
        most: usize,
        /// How many were given.
        found: usize,
    },

    /// Runs that cannot be compared.
    #[error("{a} and {b} cannot be compared: expected the same {what}, found {in_a} and {in_b}")]
    NotComparable {
        /// One run.
        a: String,
        /// The other.
        b: String,
        /// What differs.
        what: &'static str,
        /// What it is in the one.
        in_a: String,
        /// What it is in the other.
        in_b: String,
    },
}

/// The result of making something for people to look at.
pub type Result<T> = std::result::Result<T, ReportError>;
