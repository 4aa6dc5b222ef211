//! Callbacks: the events of a training run, for progress bars, logs and metrics files.

pub(crate) mod metrics_csv;
pub(crate) mod metrics_jsonl;
pub(crate) mod tensorboard;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::diagnostics::model_stats::Diagnosis;
use crate::diagnostics::watchdog::warning::Warning;
use crate::error::Result;
use crate::eval::metrics::Metrics;

/// The metrics of one epoch: a line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// The epoch, from 1.
    pub epoch: usize,
    /// Mean training loss over the epoch, with dropout.
    pub loss: f64,
    /// Training top-1 accuracy over the epoch, with dropout.
    pub acc: f64,
    /// Training top-5 accuracy over the epoch, with dropout.
    pub top5_acc: f64,
    /// Validation loss after the epoch.
    pub val_loss: f64,
    /// Validation top-1 accuracy.
    pub val_acc: f64,
    /// Validation top-5 accuracy.
    pub val_top5_acc: f64,
    /// Learning rate of the epoch.
    pub learning_rate: f32,
    /// Duration of training and validation, in seconds.
    pub seconds: f64,
    /// Training throughput in images per second, without validation.
    pub images_per_second: f64,
    /// Model statistics, if the recipe asks for them (`training.diagnose`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnosis: Option<Diagnosis>,
    /// Warnings of the watchdog during the epoch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

/// An event of a training run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Training starts or resumes.
    Started {
        /// The completed epochs, if the run was resumed.
        history: &'a [EpochMetrics],
    },
    /// An epoch starts, or resumes at a later step.
    EpochStarted {
        /// The epoch, from 1.
        epoch: usize,
        /// The maximum number of epochs; none with a time budget.
        epochs: Option<usize>,
        /// The number of steps already done in the epoch.
        first_step: usize,
        /// The number of steps in the epoch.
        steps: usize,
    },
    /// A step is done.
    Step {
        /// The number of steps done in this epoch.
        step: usize,
        /// The number of images in the step.
        images: usize,
        /// Mean metrics of the epoch so far.
        metrics: Metrics,
    },
    /// The watchdog warns.
    Warning(&'a Warning),
    /// A validation batch is done.
    Validation {
        /// The number of images done.
        done: u64,
        /// The number of images in this rank's part of the validation samples.
        total: u64,
    },
    /// An epoch is done and saved.
    EpochEnded {
        /// All epochs so far, the latest last.
        history: &'a [EpochMetrics],
        /// Whether this epoch has the lowest validation loss so far.
        best: bool,
    },
    /// The learning rate was lowered.
    LearningRateReduced {
        /// The old learning rate.
        from: f32,
        /// The new learning rate.
        to: f32,
    },
    /// Early stopping ends the run: the validation loss has not improved for `patience` epochs.
    StoppedEarly {
        /// The epoch, from 1, whose weights are restored.
        best_epoch: usize,
    },
    /// The run was interrupted and has saved its state.
    Interrupted {
        /// The run directory.
        run: &'a Path,
    },
}

/// A receiver of the events of a run.
pub trait Callback {
    /// Handles an event.
    ///
    /// # Errors
    /// Any error of the callback. It stops the run; the last saved state stays intact.
    fn notice(&mut self, event: &Event<'_>) -> Result<()>;
}

/// Several callbacks, called in order.
pub type Callbacks = Vec<Box<dyn Callback>>;

impl Callback for Callbacks {
    fn notice(&mut self, event: &Event<'_>) -> Result<()> {
        self.iter_mut()
            .try_for_each(|observer| observer.notice(event))
    }
}
