//! The table `[training]` of a recipe.

use serde::{Deserialize, Serialize};

use crate::device::DeviceChoice;
use crate::lr_schedule::ScheduleRecipe;
use crate::lr_schedule::reduce_on_plateau::PlateauConfig;
use crate::optim::config::OptimizerRecipe;
use crate::recipe::budget::Budget;
use crate::recipe::checkpoint_interval::CheckpointEvery;
use crate::recipe::initial_weights::InitialWeights;
use crate::recipe::precision::Precision;

/// The training options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingRecipe {
    /// The maximum number of epochs.
    pub epochs: usize,
    /// The wall-clock time of the run, from the start of the program to the test results. It
    /// replaces `epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// The batch size; the last step of an epoch may have fewer images.
    pub batch_size: usize,
    /// The peak learning rate.
    pub learning_rate: f32,
    /// The number of micro-batches computed one after another to save memory. Their gradients
    /// combine to those of the batch.
    pub gradient_accumulation: usize,
    /// The number of micro-batches that each of those is split into and that are computed in
    /// parallel, to use all cores with a small model.
    pub parallel_micro_batches: usize,
    /// The maximum global norm of the gradients, to which they are clipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// The compute precision of training; the test split is evaluated in `f32`.
    pub precision: Precision,
    /// Whether backward recomputes the inner values of transformer blocks instead of storing them.
    /// It takes a fraction of the memory and a quarter more time.
    pub activation_checkpointing: bool,
    /// The share of every label that is spread evenly over all classes.
    pub label_smoothing: f64,
    /// The decay of the EMA of weights, which is then validated and saved instead of the weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    /// The interval of additional saves within an epoch, in steps or minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_every: Option<CheckpointEvery>,
    /// Whether `metrics.jsonl` includes gradient norms, attention entropies and the spread of
    /// latents.
    pub diagnose: bool,
    /// The random seed.
    #[serde(with = "crate::recipe::seed")]
    pub seed: u64,
    /// The device to train on.
    pub device: DeviceChoice,
    /// The checkpoint to initialize the weights from; without it, the seed draws them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_from: Option<InitialWeights>,
    /// The optimizer.
    pub optimizer: OptimizerRecipe,
    /// The learning-rate schedule.
    pub schedule: ScheduleRecipe,
    /// The options of schedule `plateau`.
    pub plateau: PlateauConfig,
    /// The options of early stopping.
    pub early_stopping: EarlyStoppingConfig,
}

impl Default for TrainingRecipe {
    fn default() -> Self {
        Self {
            epochs: 50,
            budget: None,
            batch_size: 64,
            learning_rate: 1e-3,
            gradient_accumulation: 1,
            parallel_micro_batches: 1,
            clip_norm: None,
            precision: Precision::F32,
            activation_checkpointing: false,
            label_smoothing: 0.0,
            ema_decay: None,
            checkpoint_every: None,
            diagnose: false,
            seed: 0,
            device: DeviceChoice::Auto,
            init_from: None,
            optimizer: OptimizerRecipe::default(),
            schedule: ScheduleRecipe::default(),
            plateau: PlateauConfig::default(),
            early_stopping: EarlyStoppingConfig::default(),
        }
    }
}

/// Options of early stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EarlyStoppingConfig {
    /// The number of epochs without a lower validation loss before the run stops.
    pub patience: usize,
}

impl Default for EarlyStoppingConfig {
    fn default() -> Self {
        Self { patience: 15 }
    }
}
