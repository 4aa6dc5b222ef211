//! Reads losses and gradient norms back from the device once in several steps, so that the host
//! does not wait for the GPU.

use candle_core::Tensor;
use perceiver_data::Batch;

use crate::diagnostics::memory::peak_memory_bytes;
use crate::diagnostics::step_history::StepMetrics;
use crate::distributed::Placement;
use crate::error::Result;
use crate::eval::batch_metrics::BatchMetrics;
use crate::optim::gradients::Gradients;
use crate::recipe::Recipe;
use crate::step::micro_batches::BatchResult;
use crate::trainer::Trainer;

/// The number of steps between reads from a GPU.
const STEPS: usize = 50;

/// The result of a step, on its device.
pub(super) struct Unread {
    /// None if this rank's part is empty.
    result: Option<BatchResult>,
    /// The labels of this rank's images, u32 `[n]`.
    labels: Tensor,
    /// The weights of their losses, if the classes have weights.
    weights: Option<Vec<f32>>,
    /// This rank's share of the batch.
    share: f64,
    /// The number of steps taken before.
    steps: u64,
    norm: Norm,
    learning_rate: f32,
}

/// The global gradient norm of a step.
#[derive(Clone)]
pub(super) enum Norm {
    Known(f64),
    /// The squared norm, a scalar tensor.
    Squared(Tensor),
}

impl Norm {
    fn read(&self) -> Result<f64> {
        Ok(match self {
            Self::Known(norm) => *norm,
            Self::Squared(square) => f64::from(square.to_scalar::<f32>()?).sqrt(),
        })
    }
}

impl Unread {
    /// Creates the result of a rank's part of a batch of `images` images.
    pub(super) fn new(
        result: Option<BatchResult>,
        batch: &Batch,
        weights: Option<Vec<f32>>,
        images: usize,
        steps: u64,
        norm: Norm,
        learning_rate: f32,
    ) -> Self {
        Self {
            result,
            labels: batch.labels.clone(),
            weights,
            share: batch.indices.len() as f64 / images as f64,
            steps,
            norm,
            learning_rate,
        }
    }
}

impl Trainer {
    /// Returns the number of steps between reads: one where waiting gains nothing, and where ranks
    /// have to agree.
    pub(super) fn steps_between_readings(recipe: &Recipe, placement: &Placement) -> usize {
        if placement.device.is_cpu() || placement.ranks.size() > 1 || recipe.training.diagnose {
            1
        } else {
            STEPS
        }
    }

    /// Computes the global norm; it stays on the device unless every step is read.
    pub(super) fn norm(&self, gradients: &Gradients) -> Result<Norm> {
        if self.read_after == 1 {
            return Ok(Norm::Known(gradients.global_norm()?));
        }
        Ok(Norm::Squared(gradients.sum_of_squares()?))
    }

    /// Clips the gradients to the recipe's `clip_norm`, if any.
    pub(super) fn clipped(&self, gradients: Gradients, norm: &Norm) -> Result<Gradients> {
        match (self.recipe.training.clip_norm, norm) {
            (None, _) => Ok(gradients),
            (Some(most), Norm::Known(norm)) => gradients.scaled_down(*norm, most),
            (Some(most), Norm::Squared(square)) => gradients.scaled_down_later(square, most),
        }
    }

    /// Returns whether the pending results are to be read now.
    pub(super) fn is_reading_due(&self) -> bool {
        let first = self.progress.epoch.batches_done == 0; // so that an epoch shows a loss at once
        first || self.unread.len() >= self.read_after
    }

    /// Reads the pending results.
    ///
    /// # Errors
    /// When a loss or gradient norm is NaN or infinite, or a rank has gone.
    pub(super) fn read_pending(&mut self) -> Result<()> {
        for unread in std::mem::take(&mut self.unread) {
            let Unread {
                result,
                labels,
                weights,
                share,
                steps,
                norm,
                learning_rate,
            } = unread;
            let score = result.map(|result| {
                let (loss, logits) = result.score()?;
                BatchMetrics::new(loss, &logits, &labels, weights.as_deref())
            });
            let BatchMetrics { loss, sums } =
                BatchMetrics::of_all(&*self.placement.ranks, score.transpose()?, share)?;
            if !loss.is_finite() {
                return Err(self.not_finite("loss", loss, steps));
            }
            let norm = norm.read()?;
            if !norm.is_finite() {
                return Err(self.not_finite("gradient norm", norm, steps));
            }
            self.progress.epoch.sums.add(&sums);
            self.watchdog.step(loss, norm);
            self.record_step(steps, loss, norm, learning_rate);
        }
        Ok(())
    }

    /// Adds a step of the current epoch, taken after `steps` steps, to the history.
    fn record_step(&mut self, steps: u64, loss: f64, gradient_norm: f64, learning_rate: f32) {
        let progress = &self.progress;
        let before = progress.steps - progress.epoch.batches_done as u64;
        let done = (steps + 1 - before) as f64 / self.steps_per_epoch() as f64;
        let seconds: f64 = progress.history.iter().map(|epoch| epoch.seconds).sum();
        let step = StepMetrics {
            step: steps + 1,
            epoch: progress.history.len() as f64 + done,
            seconds: seconds + progress.epoch.seconds,
            loss,
            learning_rate: learning_rate.into(),
            gradient_norm,
            peak_memory_bytes: peak_memory_bytes(),
        };
        self.progress.step_history.push(step);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::callbacks::EpochMetrics;
    use crate::data::TrainingData;
    use crate::recipe::preset::Preset;
    use crate::run::directory::RunDirectory;

    /// Trains a short run that reads results every `read_after` steps.
    fn run(read_after: usize, changes: &str) -> Result<Vec<EpochMetrics>> {
        let changes = format!(
            "data.limit_train = 90\ndata.limit_test = 10\ntraining.epochs = 2\ntraining.batch_size = 8\n\
             model.num_iterations = 1\n{changes}"
        );
        let layers = [
            ("quickstart", Preset::Quickstart.toml()),
            ("test", &changes),
        ];
        let recipe = Recipe::from_layers(&layers).unwrap();
        let data = TrainingData::load(&recipe)?;
        let directory = tempfile::tempdir().unwrap();
        let run = RunDirectory::unused(directory.path().join("run"))?;
        let mut trainer = Trainer::start(recipe, data, run, Device::Cpu)?;
        trainer.read_after = read_after;
        trainer.fit(&mut ())?;
        assert!(trainer.unread.is_empty());
        Ok(trainer.history().to_vec())
    }

    #[test]
    fn readback_intervals_do_not_change_the_metrics() {
        let changes = "training.clip_norm = 0.5\ntraining.gradient_accumulation = 2";
        let [at_once, later] = [1, 4].map(|steps| run(steps, changes).unwrap());
        assert_eq!(at_once.len(), 2);
        for (at_once, later) in at_once.iter().zip(&later) {
            assert_eq!(at_once.acc.to_bits(), later.acc.to_bits());
            for (now, then) in [
                (at_once.loss, later.loss),
                (at_once.val_loss, later.val_loss),
            ] {
                // Gradients are scaled by an f32 factor.
                assert!((now / then - 1.0).abs() < 1e-5, "{then} for {now}");
            }
        }
        let unclipped = run(1, "training.gradient_accumulation = 2").unwrap();
        assert!(
            (unclipped[1].loss / at_once[1].loss - 1.0).abs() > 1e-4,
            "nothing was clipped"
        );
    }

    #[test]
    fn non_finite_steps_are_named_at_any_readback_interval() {
        let changes = "training.learning_rate = 1e37\ntraining.schedule.warmup_epochs = 0";
        let [at_once, later] = [1, 4].map(|steps| run(steps, changes).unwrap_err().to_string());
        assert!(at_once.contains("step"), "{at_once}");
        assert_eq!(at_once, later);
    }
}
