//! Every way in which training can be refused or end badly, one variant each.

use std::io;
use std::path::PathBuf;

use perceiver_data::DataError;
use perceiver_model::ModelError;

/// Why a recipe, a run directory or a checkpoint was refused, or training stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A data set or picture was refused.
    #[error(transparent)]
    Data(#[from] DataError),

    /// A configuration or weights were refused.
    #[error(transparent)]
    Model(#[from] ModelError),

    /// The Hugging Face Hub does not give a checkpoint.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] perceiver_hub::HubError),

    /// candle refused a tensor operation.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),

    /// The operating system refused to read or write a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb: "read", "create".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },

    /// A recipe is no valid TOML, or has fields or values it cannot have.
    #[error("recipe {name}: {finding}")]
    Recipe {
        /// The preset or file.
        name: String,
        /// What is wrong, naming the field.
        finding: String,
    },

    /// A budget is no duration.
    #[error(
        "budget: expected a duration above 0 with its units, such as 90s, 10m or 1h30m, found {found:?}"
    )]
    Budget {
        /// What was found.
        found: String,
    },

    /// Training would take more memory than there is.
    #[error(
        "training takes {} of memory ({how}), but this process may have {}: expected a smaller training.batch_size, more of \
         training.accumulate, training.recompute = true, or a smaller model",
        gigabytes(*needed), gigabytes(*limit)
    )]
    Memory {
        /// How the number was come to: "the forecast", "at least".
        how: &'static str,
        /// Bytes that training takes.
        needed: u64,
        /// Bytes that there are.
        limit: u64,
    },

    /// A device is unknown, absent, or not supported by this build.
    #[error("device {device}: expected {expected}, found {finding}")]
    Device {
        /// The device asked for.
        device: String,
        /// What was expected, in words.
        expected: String,
        /// What was found, in words.
        finding: String,
    },

    /// A file of a run or checkpoint is not what it should be.
    #[error("{} is damaged or not ours: expected {expected}, found {finding}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: String,
        /// What stood in the way.
        finding: String,
    },

    /// A new run would overwrite an old one.
    #[error("{} already holds a run: expected a new or empty directory", path.display())]
    RunExists {
        /// The directory.
        path: PathBuf,
    },

    /// Two processes would write one directory.
    #[error("{} is being written by {holder}: expected a directory that no other process is at work in", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that writes it.
        holder: String,
    },

    /// A run is continued on other data than it began with.
    #[error("the run was trained on data with sha256 {expected}, but {name} has {found}")]
    OtherData {
        /// The data set now.
        name: String,
        /// The hash in the run.
        expected: String,
        /// The hash now.
        found: String,
    },

    /// A run is continued by another recipe than it began with.
    #[error("{}: {field} is {found}, but the run's state was made with {expected}", path.display())]
    OtherRecipe {
        /// The recipe's file.
        path: PathBuf,
        /// The first field that differs.
        field: String,
        /// What the field is in the run's state.
        expected: String,
        /// What the field is in the file.
        found: String,
    },

    /// Weights to begin with are those of another architecture.
    #[error(
        "model.{field} is {found}, but the weights to begin with are those of a model with {expected}"
    )]
    OtherArchitecture {
        /// The first field that differs.
        field: String,
        /// What the field is in the checkpoint.
        expected: String,
        /// What the field is in the recipe.
        found: String,
    },

    /// Weights to begin with are not those that a recipe names.
    #[error(
        "checkpoint {checkpoint} has weights with sha256 {found}, but the recipe was made with {expected}"
    )]
    OtherWeights {
        /// The checkpoint.
        checkpoint: String,
        /// The hash in the recipe.
        expected: String,
        /// The hash now.
        found: String,
    },

    /// A run cannot end where it has come to already.
    #[error("epochs: expected more than the {done} that are done, found {found}")]
    TooFewEpochs {
        /// Epochs done.
        done: usize,
        /// Epochs asked for.
        found: usize,
    },

    /// An interval between saves is neither steps nor minutes.
    #[error(
        "checkpoint_every: expected a number of steps such as 500, or minutes such as 10m, found {found:?}"
    )]
    Interval {
        /// The text.
        found: String,
    },

    /// The processes that train together have lost each other.
    #[error("rank {rank} of {size}: {finding}")]
    Ranks {
        /// The rank that noticed.
        rank: usize,
        /// How many there are.
        size: usize,
        /// What went wrong.
        finding: String,
    },

    /// A rank was started with other flags, data or another program than the first.
    #[error("rank {rank} on {host} has {field} = {found}, where rank 0 has {expected}")]
    OtherRank {
        /// The first rank that differs.
        rank: usize,
        /// Where it runs.
        host: String,
        /// The first field in which it does.
        field: String,
        /// What rank 0 has.
        expected: String,
        /// What this rank has.
        found: String,
    },

    /// The loss does not depend on a variable: somewhere the graph is cut.
    #[error(
        "no gradient reaches {name}: an operation between it and the loss has no backward pass"
    )]
    NoGradient {
        /// The variable.
        name: String,
    },

    /// A model with finite weights says of a picture what is no number.
    #[error(
        "image {image}: expected finite scores of its classes, found {value} for class {class}: the model's weights are too large for \
         the numbers it computes in"
    )]
    ScoreNotFinite {
        /// The picture, from 0, among those that were judged.
        image: usize,
        /// The first class of such a score.
        class: usize,
        /// What it is instead.
        value: f32,
    },

    /// The loss or the gradients became NaN or infinite.
    #[error("the {what} is {value} at step {step} (epoch {epoch}): expected a finite number")]
    NotFinite {
        /// Epoch, from 1.
        epoch: usize,
        /// Optimizer step, from 1.
        step: u64,
        /// What is not finite: "loss", "gradient norm".
        what: &'static str,
        /// What it is instead.
        value: f64,
    },
}

/// The result of training or of reading a run.
pub type Result<T> = std::result::Result<T, TrainError>;

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}
