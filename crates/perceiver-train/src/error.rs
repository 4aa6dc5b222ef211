//! Errors of training, one variant each.

use std::io;
use std::path::PathBuf;

use perceiver_data::{BoxError, DataError};
use perceiver_model::ModelError;

/// Errors of recipes, run directories, checkpoints and training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A data set or image was refused.
    #[error(transparent)]
    Data(#[from] DataError),

    /// A configuration or weights were refused.
    #[error(transparent)]
    Model(#[from] ModelError),

    /// The Hugging Face Hub does not deliver a checkpoint.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] perceiver_hub::HubError),

    /// candle refused a tensor operation.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),

    /// The operating system refused to read or write a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The action as a verb: "read", "create".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },

    /// A recipe is not valid TOML, or has unknown fields or invalid values.
    #[error("recipe {name}: {finding}")]
    Recipe {
        /// The preset or file.
        name: String,
        /// The problem, with the name of the field.
        finding: String,
    },

    /// A budget is not a valid duration.
    #[error(
        "budget: expected a duration above 0 with its units, such as 90s, 10m or 1h30m, found {found:?}"
    )]
    Budget {
        /// The given text.
        found: String,
    },

    /// Training would need more memory than is available.
    #[error(
        "training needs {} of memory ({how}), but {} is available to this process: use a smaller training.batch_size, a larger \
         training.gradient_accumulation, training.activation_checkpointing = true, or a smaller model",
        gigabytes(*needed), gigabytes(*limit)
    )]
    Memory {
        /// The origin of the number: "estimated", "at least".
        how: &'static str,
        /// The bytes that training needs.
        needed: u64,
        /// The bytes available.
        limit: u64,
    },

    /// A device is unknown, absent, or not supported by this build.
    #[error("device {device}: expected {expected}, found {finding}")]
    Device {
        /// The requested device.
        device: String,
        /// The expectation, in words.
        expected: String,
        /// The finding, in words.
        finding: String,
    },

    /// A file of a run or checkpoint is damaged or of another kind.
    #[error("{} is damaged or invalid: expected {expected}, found {finding}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The expected content.
        expected: String,
        /// The problem found.
        finding: String,
    },

    /// A new run would overwrite an old one.
    #[error("{} already contains a run: expected a new or empty directory", path.display())]
    RunExists {
        /// The directory.
        path: PathBuf,
    },

    /// Another process is writing the directory.
    #[error("{} is in use by {holder}: expected a directory that no other process writes to", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that writes it.
        holder: String,
    },

    /// A run was resumed with other data than it started with.
    #[error("the run was trained on data with sha256 {expected}, but {name} has {found}")]
    OtherData {
        /// The current data set.
        name: String,
        /// The hash in the run.
        expected: String,
        /// The current hash.
        found: String,
    },

    /// A run was resumed with another recipe than it started with.
    #[error("{}: {field} is {found}, but {expected} in the saved training state", path.display())]
    OtherRecipe {
        /// The recipe file.
        path: PathBuf,
        /// The first field that differs.
        field: String,
        /// The field's value in the run's state.
        expected: String,
        /// The field's value in the file.
        found: String,
    },

    /// The initial weights belong to another architecture.
    #[error("model.{field} is {found}, but the initial weights are from a model with {expected}")]
    OtherArchitecture {
        /// The first field that differs.
        field: String,
        /// The field's value in the checkpoint.
        expected: String,
        /// The field's value in the recipe.
        found: String,
    },

    /// The initial weights are not those that the recipe names.
    #[error(
        "checkpoint {checkpoint} has weights with sha256 {found}, but training.init_from.sha256 is {expected}"
    )]
    OtherWeights {
        /// The checkpoint.
        checkpoint: String,
        /// The hash in the recipe.
        expected: String,
        /// The current hash.
        found: String,
    },

    /// A run was given no more epochs than it has already done.
    #[error("epochs: expected more than the {done} already completed, found {found}")]
    TooFewEpochs {
        /// The epochs done.
        done: usize,
        /// The epochs requested.
        found: usize,
    },

    /// A checkpoint interval is neither steps nor minutes.
    #[error(
        "checkpoint_every: expected a number of steps such as 500, or minutes such as 10m, found {found:?}"
    )]
    Interval {
        /// The given text.
        found: String,
    },

    /// The communication between ranks failed.
    #[error("rank {rank} of {size}: {finding}")]
    Communicator {
        /// The rank that noticed.
        rank: usize,
        /// The number of ranks.
        size: usize,
        /// The problem.
        finding: String,
    },

    /// A rank was started with other flags, data or program than rank 0.
    #[error("rank {rank} on {host} has {field} = {found}, but rank 0 has {expected}")]
    OtherRank {
        /// The first rank that differs.
        rank: usize,
        /// The host of that rank.
        host: String,
        /// The first field that differs.
        field: String,
        /// The value on rank 0.
        expected: String,
        /// The value on this rank.
        found: String,
    },

    /// A callback failed.
    #[error("callback: {0}")]
    Callback(BoxError),

    /// A resumed run lacks the program's own parts that it was trained with, or has others.
    #[error(
        "the optimizer, loss or schedule of the program's own: expected {expected}, with which this run was trained, found {found}; \
         set them by Trainer::with_optimizer, with_loss and with_schedule"
    )]
    CustomParts {
        /// The parts of the saved run.
        expected: String,
        /// The parts of this trainer.
        found: String,
    },

    /// The loss does not depend on a variable: the graph is cut somewhere.
    #[error(
        "no gradient reaches {name}: an operation between it and the loss has no backward pass"
    )]
    NoGradient {
        /// The variable.
        name: String,
    },

    /// An optimizer of a program's own has no learning rates by layer.
    #[error(
        "training.layer_decay: expected 1 with an optimizer that does not implement set_learning_rate_factors"
    )]
    NoLayerDecay,

    /// A model with finite weights has NaN or infinite logits for an image.
    #[error(
        "image {image}: expected finite logits, found {value} for class {class}: the model's weights are too large for its \
         compute precision"
    )]
    ScoreNotFinite {
        /// The index of the image, from 0, in the evaluated data.
        image: usize,
        /// The first class with such a logit.
        class: usize,
        /// The logit.
        value: f32,
    },

    /// A model with finite weights has NaN or infinite features for an image.
    #[error(
        "image {image}: expected finite features, found {value}: the model's weights are too large for its \
         compute precision"
    )]
    FeatureNotFinite {
        /// The index of the image, from 0, among those given.
        image: usize,
        /// The first such value.
        value: f32,
    },

    /// Embeddings were made by another checkpoint.
    #[error(
        "{} has embeddings of checkpoint {expected}, but {found} was given: use the former, or embed the images \
         again with the latter",
        path.display()
    )]
    OtherCheckpoint {
        /// The file of embeddings.
        path: PathBuf,
        /// The checkpoint of the embeddings: its name and the hash of its weights.
        expected: String,
        /// The checkpoint in use.
        found: String,
    },

    /// The loss or the gradients became NaN or infinite.
    #[error("the {what} is {value} at step {step} (epoch {epoch}): expected a finite number")]
    NotFinite {
        /// The epoch, from 1.
        epoch: usize,
        /// The optimizer step, from 1.
        step: u64,
        /// The quantity: "loss", "gradient norm".
        what: &'static str,
        /// Its value.
        value: f64,
    },
}

/// The result type of this crate.
pub type Result<T, E = TrainError> = std::result::Result<T, E>;

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}
