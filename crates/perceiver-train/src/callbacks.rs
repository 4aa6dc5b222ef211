//! Callbacks: the events of a training run, for progress bars, logs and metrics files.

pub(crate) mod metrics_csv;
pub(crate) mod metrics_jsonl;
pub(crate) mod notifier;
pub(crate) mod progress_json;
pub(crate) mod steps_csv;
pub(crate) mod tensorboard;

use std::collections::BTreeMap;
use std::path::Path;

use perceiver_data::{BoxError, Preprocessing, Samples};
use perceiver_model::Classifier;
use serde::{Deserialize, Serialize};

use crate::diagnostics::histogram::Histogram;
use crate::diagnostics::model_stats::Diagnosis;
use crate::diagnostics::step_history::StepMetrics;
use crate::diagnostics::watchdog::warning::Warning;
use crate::distributed::Placement;
#[cfg(doc)]
use crate::error::TrainError;
use crate::eval::TestResults;
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
    /// Metrics of callbacks ([`Callback::epoch_metrics`]), by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub custom: BTreeMap<String, f64>,
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
    /// The steps so far, summarized in at most 2,000 points: after [`Event::Started`], at the end of
    /// every epoch, and within a long epoch about every 10 seconds.
    StepHistory(&'a [StepMetrics]),
    /// Histograms after an epoch, if they were asked for
    /// ([`Trainer::record_histograms`](crate::Trainer::record_histograms)).
    Histograms {
        /// The epoch, from 1.
        epoch: usize,
        /// The weights by name.
        weights: &'a [(String, Histogram)],
        /// The gradients of the epoch's last step by name, before clipping.
        gradients: &'a [(String, Histogram)],
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
    /// Training has ended, and the model has its best weights.
    Finished {
        /// All epochs.
        history: &'a [EpochMetrics],
    },
    /// A batch of the test is done.
    Test {
        /// The number of images done.
        done: u64,
        /// The number of images in this rank's part of the test samples.
        total: u64,
    },
    /// The test is done and its results are saved.
    Tested(&'a TestResults),
}

impl<'a> Event<'a> {
    /// Returns the metrics of the epoch that has just ended; `None` for other events.
    pub fn last_epoch(&self) -> Option<&'a EpochMetrics> {
        match self {
            Self::EpochEnded { history, .. } => history.last(),
            _ => None,
        }
    }
}

/// A request of a callback to the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Control {
    /// Train on.
    #[default]
    Continue,
    /// End training as early stopping does: after the current step, the epoch is validated and
    /// recorded, and the run is finished with its best weights. There is at least one step.
    Stop,
}

impl Control {
    /// Returns [`Control::Stop`] if a condition holds.
    pub fn stop_if(condition: bool) -> Self {
        if condition {
            Self::Stop
        } else {
            Self::Continue
        }
    }
}

/// What a callback returns: a request to the run, or an error of its own.
pub type CallbackResult = std::result::Result<Control, BoxError>;

/// A model after the validation of an epoch, for metrics of a callback's own.
#[non_exhaustive]
pub struct Validated<'a> {
    /// The epoch, from 1.
    pub epoch: usize,
    /// The model that was validated: with the EMA of the weights, if there is one.
    pub model: &'a dyn Classifier,
    /// The validation samples.
    pub validation: &'a Samples,
    /// The preprocessing of images.
    pub preprocessing: &'a Preprocessing,
    /// The device and the ranks.
    pub placement: &'a Placement,
}

/// A receiver of the events of a run. Closures that take an [`Event`] are callbacks:
///
/// ```
/// use perceiver_train::{Callback, Control, Event};
///
/// let mut at_90_percent = |event: &Event<'_>| {
///     let last = event.last_epoch();
///     Ok(Control::stop_if(last.is_some_and(|last| last.val_acc > 0.9)))
/// };
/// let callback: &mut dyn Callback = &mut at_90_percent; // for `Trainer::fit`
/// # let _ = callback;
/// ```
pub trait Callback {
    /// Handles an event.
    ///
    /// # Errors
    /// Any error of the callback. It stops the run with [`TrainError::Callback`]; the last saved
    /// state stays intact.
    fn on_event(&mut self, event: &Event<'_>) -> CallbackResult;

    /// Computes metrics of the callback's own after an epoch, by name. They are recorded with the
    /// epoch: in `metrics.jsonl`, `metrics.csv` and TensorBoard, and as a curve in the report.
    ///
    /// # Errors
    /// As for [`Callback::on_event`]. A name that is used twice and a value that is not finite are
    /// errors too.
    fn epoch_metrics(
        &mut self,
        validated: &Validated<'_>,
    ) -> std::result::Result<Vec<(String, f64)>, BoxError> {
        let _ = validated;
        Ok(Vec::new())
    }
}

impl<F: FnMut(&Event<'_>) -> CallbackResult> Callback for F {
    fn on_event(&mut self, event: &Event<'_>) -> CallbackResult {
        self(event)
    }
}

/// No callback.
impl Callback for () {
    fn on_event(&mut self, _event: &Event<'_>) -> CallbackResult {
        Ok(Control::Continue)
    }
}

/// Several callbacks, called in order.
pub type Callbacks = Vec<Box<dyn Callback>>;

impl Callback for Callbacks {
    fn on_event(&mut self, event: &Event<'_>) -> CallbackResult {
        let mut control = Control::Continue;
        for callback in self {
            if callback.on_event(event)? == Control::Stop {
                control = Control::Stop;
            }
        }
        Ok(control)
    }

    fn epoch_metrics(
        &mut self,
        validated: &Validated<'_>,
    ) -> std::result::Result<Vec<(String, f64)>, BoxError> {
        let mut metrics = Vec::new();
        for callback in self {
            metrics.extend(callback.epoch_metrics(validated)?);
        }
        Ok(metrics)
    }
}
