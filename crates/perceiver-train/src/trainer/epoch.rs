//! An epoch: its steps, then validation, callbacks and a checkpoint.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use candle_core::Tensor;
use perceiver_data::Loader;

use crate::callbacks::notifier::Notifier;
use crate::callbacks::{EpochMetrics, Event};
use crate::diagnostics::model_stats::Diagnosis;
use crate::distributed::consistency::require_agreement;
use crate::error::Result;
use crate::eval::metrics::Metrics;
use crate::lr_schedule::ScheduleName;
use crate::step::prefetch::prefetched;
use crate::trainer::Trainer;
use crate::trainer::early_stopping::EarlyStoppingDecision;
use crate::trainer::training_state::EpochProgress;

/// The time after which callbacks see the step history within an epoch.
const STEP_HISTORY_INTERVAL: Duration = Duration::from_secs(10);

/// The way an epoch ended: complete or interrupted.
pub(super) enum EpochEnd {
    Complete,
    Interrupted,
}

impl Trainer {
    pub(super) fn train_epoch(
        &mut self,
        loader: &Loader,
        notifier: &mut Notifier<'_>,
    ) -> Result<EpochEnd> {
        let epoch = self.progress.history.len();
        let first_step = self.progress.epoch.batches_done;
        notifier.notify(&Event::EpochStarted {
            epoch: epoch + 1,
            epochs: match self.recipe.training.budget {
                None => Some(self.recipe.training.epochs),
                Some(_) => None,
            },
            first_step,
            steps: loader.batches_per_epoch(),
        })?;
        let seconds_before = self.progress.epoch.seconds;
        let start = Instant::now();
        let mut shown = start;
        for batch in prefetched(loader.epoch(epoch, first_step), &self.placement.device) {
            let signal = self.signal(notifier)?;
            if signal.interrupt {
                return Ok(EpochEnd::Interrupted);
            }
            let is_begun = self.progress.epoch.batches_done > 0;
            if is_begun && (signal.stop || signal.time.is_some_and(|time| time.is_up)) {
                break;
            }
            self.diagnose_early(notifier)?;
            let batch = batch?;
            let images = self.images_of_batch(self.progress.epoch.batches_done);
            let metrics = self.step(&batch, images, signal.time)?;
            self.progress.epoch.batches_done += 1;
            if self.unread.is_empty() {
                self.progress.epoch.seconds = seconds_before + start.elapsed().as_secs_f64();
            }
            notifier.notify(&Event::Step {
                step: self.progress.epoch.batches_done,
                images,
                metrics,
            })?;
            self.warn(notifier)?;
            if shown.elapsed() >= STEP_HISTORY_INTERVAL {
                shown = Instant::now();
                notifier.notify(&Event::StepHistory(self.progress.step_history.points()))?;
            }
            if self.is_save_due() {
                self.read_pending()?;
                self.save()?;
            }
        }
        if !self.unread.is_empty() {
            self.read_pending()?;
            self.progress.epoch.seconds = seconds_before + start.elapsed().as_secs_f64();
        }
        Ok(EpochEnd::Complete)
    }

    /// Returns the number of images in the batch at `index`; the last batch of an epoch may have
    /// fewer.
    fn images_of_batch(&self, index: usize) -> usize {
        let size = self.recipe.training.batch_size;
        size.min(self.data.train.len() - index * size)
    }

    /// Validates, records the epoch, applies early stopping and the plateau schedule, saves, and
    /// calls the callbacks.
    pub(super) fn end_epoch(&mut self, notifier: &mut Notifier<'_>) -> Result<()> {
        self.require_same_weights()?;
        let start = Instant::now();
        let (validation, custom) = self.validate(notifier)?;
        if !validation.loss.is_finite() {
            return Err(self.not_finite("validation loss", validation.loss, self.progress.steps));
        }
        let seconds = start.elapsed().as_secs_f64();
        self.progress.time.validation = Some(seconds);
        let mut metrics = self.epoch_metrics(validation, custom, seconds);
        let diagnosis = self.diagnose()?;
        self.watchdog.epoch_ended(metrics.epoch, &diagnosis);
        if self.recipe.training.diagnose {
            metrics.diagnosis = Some(Diagnosis {
                gradients: self.progress.epoch.gradients.diagnosis(),
                model: diagnosis,
            });
        }
        let warnings = self.watchdog.warnings();
        metrics.warnings = std::mem::take(&mut self.progress.epoch.warnings);
        metrics.warnings.extend(warnings.iter().cloned());
        self.progress.history.push(metrics);
        self.progress.epoch = EpochProgress::default();

        let val_loss = validation.loss;
        let decision = self.progress.early_stopping.epoch_ended(val_loss);
        if decision == EarlyStoppingDecision::Best {
            self.best = copies(self.weights())?;
        }
        let (from, to) = self.reduce_learning_rate(val_loss);
        self.progress.stopped = decision == EarlyStoppingDecision::Stop;
        self.enter_stage()?;
        self.save()?;

        let history = &self.progress.history;
        let best = decision == EarlyStoppingDecision::Best;
        notifier.notify(&Event::EpochEnded { history, best })?;
        notifier.notify(&Event::StepHistory(self.progress.step_history.points()))?;
        self.show_histograms(notifier)?;
        let mut warnings = warnings.iter();
        warnings.try_for_each(|warning| notifier.notify(&Event::Warning(warning)))?;
        if from > to {
            notifier.notify(&Event::LearningRateReduced { from, to })?;
        }
        if self.progress.stopped {
            let best_epoch = self
                .progress
                .early_stopping
                .best_epoch()
                .map_or(0, |epoch| epoch + 1);
            notifier.notify(&Event::StoppedEarly { best_epoch })?;
        }
        Ok(())
    }

    /// Checks that all ranks have the same weights. They do, since they use the same sums, unless a
    /// machine or network fails.
    fn require_same_weights(&self) -> Result<()> {
        if self.placement.ranks.size() == 1 {
            return Ok(());
        }
        let epoch = self.progress.history.len() + 1;
        let name = format!("CRC of the weights after epoch {epoch}");
        let mut crc = 0;
        for (_, variable) in self.parameters.iter() {
            let values = variable.flatten_all()?.to_vec1::<f32>()?;
            for value in values {
                crc = crc32c::crc32c_append(crc, &value.to_le_bytes());
            }
        }
        require_agreement(&*self.placement.ranks, &[(name, crc.to_string())].into())
    }

    fn epoch_metrics(
        &self,
        validation: Metrics,
        custom: BTreeMap<String, f64>,
        validation_seconds: f64,
    ) -> EpochMetrics {
        let EpochProgress { sums, seconds, .. } = self.progress.epoch;
        let training = sums.means();
        EpochMetrics {
            epoch: self.progress.history.len() + 1,
            loss: training.loss,
            acc: training.acc,
            top5_acc: training.top5_acc,
            val_loss: validation.loss,
            val_acc: validation.acc,
            val_top5_acc: validation.top5_acc,
            learning_rate: self.learning_rate,
            seconds: seconds + validation_seconds,
            images_per_second: sums.samples() as f64 / seconds,
            diagnosis: None,
            warnings: Vec::new(),
            custom,
        }
    }

    /// Returns the learning rate before and after the plateau schedule has seen a validation loss.
    fn reduce_learning_rate(&mut self, val_loss: f64) -> (f32, f32) {
        let from = self.progress.learning_rate;
        if self.recipe.training.schedule.name == ScheduleName::Plateau {
            self.progress.learning_rate = self.progress.plateau.epoch_ended(val_loss, from);
        }
        (from, self.progress.learning_rate)
    }
}

/// Copies weights to tensors that later steps do not change.
fn copies(weights: HashMap<String, Tensor>) -> Result<HashMap<String, Tensor>> {
    weights
        .into_iter()
        .map(|(name, tensor)| Ok((name, tensor.copy()?)))
        .collect()
}
