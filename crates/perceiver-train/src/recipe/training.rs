//! The table `[training]` of a recipe.

use perceiver_data::Samples;
use serde::{Deserialize, Serialize};

use crate::device::DeviceChoice;
use crate::lr_schedule::ScheduleRecipe;
use crate::lr_schedule::reduce_on_plateau::PlateauConfig;
use crate::optim::config::OptimizerRecipe;
use crate::recipe::budget::Budget;
use crate::recipe::checkpoint_interval::CheckpointEvery;
use crate::recipe::initial_weights::InitialWeights;
use crate::recipe::precision::Precision;
use crate::run::json_file;
use crate::step::class_weights::ClassWeights;

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
    /// The weights of the classes in the training loss.
    pub class_weights: ClassWeighting,
    /// Whether an epoch draws every class equally often, however many images it has.
    pub balanced_sampler: bool,
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
    /// The prefixes of parameters that are frozen, such as `encoder`: they keep their values, and
    /// what only they need of the backward pass is skipped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<String>,
    /// The number of epochs in which only the classification head is trained, before the rest is.
    #[serde(skip_serializing_if = "json_file::is_default")]
    pub head_epochs: usize,
    /// The factor on the learning rate of each layer relative to that of the next one, so that
    /// early layers change less than the head (Clark et al., "ELECTRA", 2020); 1 for one rate. The
    /// layers are those of the model summary.
    #[serde(skip_serializing_if = "is_one")]
    pub layer_decay: f64,
    /// The optimizer.
    pub optimizer: OptimizerRecipe,
    /// The learning-rate schedule.
    pub schedule: ScheduleRecipe,
    /// The options of schedule `plateau`.
    pub plateau: PlateauConfig,
    /// The options of early stopping.
    pub early_stopping: EarlyStoppingConfig,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_one(value: &f64) -> bool {
    value.to_bits() == 1f64.to_bits()
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
            class_weights: ClassWeighting::None,
            balanced_sampler: false,
            ema_decay: None,
            checkpoint_every: None,
            diagnose: false,
            seed: 0,
            device: DeviceChoice::Auto,
            init_from: None,
            freeze: Vec::new(),
            head_epochs: 0,
            layer_decay: 1.0,
            optimizer: OptimizerRecipe::default(),
            schedule: ScheduleRecipe::default(),
            plateau: PlateauConfig::default(),
            early_stopping: EarlyStoppingConfig::default(),
        }
    }
}

/// How the classes are weighted in the training loss: `none` or `balanced`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassWeighting {
    /// Every image counts the same.
    #[default]
    None,
    /// Every class counts the same: [`ClassWeights::balanced`].
    Balanced,
}

impl ClassWeighting {
    /// Computes the weights from the labels of the training images; none if they all count the same.
    pub fn of(self, train: &Samples) -> Option<ClassWeights> {
        match self {
            Self::None => None,
            Self::Balanced => Some(ClassWeights::balanced(&train.class_counts())),
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
