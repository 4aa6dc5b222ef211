//! What a run tells those who watch it: a progress bar, a log, a metrics file.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::diagnosis::Diagnosis;
use crate::error::Result;
use crate::metrics::Metrics;
use crate::watchdog::Warning;

/// What an epoch came to: a line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// The epoch, from 1.
    pub epoch: usize,
    /// Mean training loss over the epoch, dropout on.
    pub loss: f64,
    /// Training top-1 accuracy over the epoch, dropout on.
    pub acc: f64,
    /// Training top-5 accuracy over the epoch, dropout on.
    pub top5_acc: f64,
    /// Validation loss after the epoch.
    pub val_loss: f64,
    /// Validation top-1 accuracy.
    pub val_acc: f64,
    /// Validation top-5 accuracy.
    pub val_top5_acc: f64,
    /// The learning rate of the epoch.
    pub learning_rate: f32,
    /// Training and validation, in seconds.
    pub seconds: f64,
    /// Training pictures a second, validation aside.
    pub images_per_second: f64,
    /// What was measured inside the model, where the recipe asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnosis: Option<Diagnosis>,
    /// What the run was warned of in the epoch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

/// Something that happened in a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Training begins, or goes on.
    Started {
        /// The epochs done before, if the run was resumed.
        history: &'a [EpochMetrics],
    },
    /// An epoch begins, or goes on at a later step after a resume.
    EpochStarted {
        /// The epoch, from 1.
        epoch: usize,
        /// The most epochs the run will have; none where it goes by the clock.
        epochs: Option<usize>,
        /// Steps already done.
        first_step: usize,
        /// Steps in the epoch.
        steps: usize,
    },
    /// A step is done.
    Step {
        /// Steps done in this epoch.
        step: usize,
        /// Pictures in the step.
        images: usize,
        /// Means over the epoch so far.
        metrics: Metrics,
    },
    /// Something goes wrong.
    Warning(&'a Warning),
    /// A batch of the validation part is done.
    Validation {
        /// Pictures done.
        done: u64,
        /// Pictures in all.
        total: u64,
    },
    /// An epoch is done, and saved.
    EpochEnded {
        /// All epochs so far, the last one last.
        history: &'a [EpochMetrics],
        /// Whether it has the lowest validation loss so far.
        best: bool,
    },
    /// The learning rate was lowered.
    LearningRateReduced {
        /// Before.
        from: f32,
        /// From now on.
        to: f32,
    },
    /// The validation loss has not fallen for long: the run ends.
    StoppedEarly {
        /// The epoch, from 1, whose weights are kept.
        best_epoch: usize,
    },
    /// The run was asked to stop, and has saved where it stands.
    Interrupted {
        /// The run's directory.
        run: &'a Path,
    },
}

/// Watches a run.
pub trait Observer {
    /// Takes notice of an event.
    ///
    /// # Errors
    /// Whatever went wrong in doing so; the run stops then, its last saved state intact.
    fn notice(&mut self, event: &Event<'_>) -> Result<()>;
}

/// Several observers, told one after another.
pub type Observers = Vec<Box<dyn Observer>>;

impl Observer for Observers {
    fn notice(&mut self, event: &Event<'_>) -> Result<()> {
        self.iter_mut()
            .try_for_each(|observer| observer.notice(event))
    }
}
