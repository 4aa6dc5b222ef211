//! What steps have found, read from the device once in a while: a GPU that is asked after every step stands still until the answer is
//! there and the next step is begun.

use candle_core::Tensor;
use perceiver_data::Batch;

use crate::batch_pass::BatchResult;
use crate::batch_score::BatchScore;
use crate::error::Result;
use crate::gradients::Gradients;
use crate::ranks::Workplace;
use crate::recipe::Recipe;
use crate::trainer::Trainer;

/// The steps after which a GPU is asked how they went.
const STEPS: usize = 50;

/// What a step has found, on its device.
pub(super) struct Unread {
    /// None of an empty part.
    result: Option<BatchResult>,
    /// Those of the pictures of this rank, u32 `[n]`.
    labels: Tensor,
    /// The part of the batch that they are.
    share: f64,
    /// How many steps were taken before.
    steps: u64,
    norm: Norm,
}

/// The Euclidean norm of all gradients of a step.
#[derive(Clone)]
pub(super) enum Norm {
    Known(f64),
    /// Its square, a scalar.
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
    /// What was found in a part of a batch of so many `images`.
    pub(super) fn new(
        result: Option<BatchResult>,
        batch: &Batch,
        images: usize,
        steps: u64,
        norm: Norm,
    ) -> Self {
        Self {
            result,
            labels: batch.labels.clone(),
            share: batch.indices.len() as f64 / images as f64,
            steps,
            norm,
        }
    }
}

impl Trainer {
    /// The steps after which they are read: one where nothing is gained by waiting, and where ranks have to agree.
    pub(super) fn steps_between_readings(recipe: &Recipe, place: &Workplace) -> usize {
        if place.device.is_cpu() || place.ranks.size() > 1 || recipe.training.diagnose {
            1
        } else {
            STEPS
        }
    }

    /// The norm of gradients, on the device unless every step is read.
    pub(super) fn norm(&self, gradients: &Gradients) -> Result<Norm> {
        if self.read_after == 1 {
            return Ok(Norm::Known(gradients.global_norm()?));
        }
        Ok(Norm::Squared(gradients.sum_of_squares()?))
    }

    /// Gradients as long as the recipe allows.
    pub(super) fn clipped(&self, gradients: Gradients, norm: &Norm) -> Result<Gradients> {
        match (self.recipe.training.clip_norm, norm) {
            (None, _) => Ok(gradients),
            (Some(most), Norm::Known(norm)) => gradients.scaled_down(*norm, most),
            (Some(most), Norm::Squared(square)) => gradients.scaled_down_later(square, most),
        }
    }

    /// Whether what was found should be read now.
    pub(super) fn is_reading_due(&self) -> bool {
        let first = self.progress.epoch.batches_done == 0; // so that an epoch has a loss to show
        first || self.unread.len() >= self.read_after
    }

    /// Reads what the steps since the last time have found.
    ///
    /// # Errors
    /// When a loss or the gradients of one were no finite numbers, or a rank has gone.
    pub(super) fn settle(&mut self) -> Result<()> {
        for unread in std::mem::take(&mut self.unread) {
            let Unread {
                result,
                labels,
                share,
                steps,
                norm,
            } = unread;
            let score = result.map(|result| {
                let (loss, logits) = result.score()?;
                BatchScore::new(loss, &logits, &labels)
            });
            let BatchScore { loss, sums } =
                BatchScore::of_all(&*self.place.ranks, score.transpose()?, share)?;
            if !loss.is_finite() {
                return Err(self.not_finite("loss", loss, steps));
            }
            let norm = norm.read()?;
            if !norm.is_finite() {
                return Err(self.not_finite("gradient norm", norm, steps));
            }
            self.progress.epoch.sums.add(&sums);
            self.watchdog.step(loss, norm);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use candle_core::Device;

    use super::*;
    use crate::observer::{EpochMetrics, Observers};
    use crate::preset::Preset;
    use crate::run_directory::RunDirectory;
    use crate::training_data::TrainingData;

    /// A short run that reads its steps so many at a time.
    fn run(read_after: usize, changes: &str) -> Result<Vec<EpochMetrics>> {
        let changes = format!(
            "data.limit_train = 90\ndata.limit_test = 10\ntraining.epochs = 2\ntraining.batch_size = 8\n\
             model.num_iterations = 1\n{changes}"
        );
        let layers = [
            ("quickstart", Preset::Quickstart.table()),
            ("test", toml::from_str(&changes).unwrap()),
        ];
        let recipe = Recipe::from_layers(&layers).unwrap();
        let data = TrainingData::load(&recipe)?;
        let directory = tempfile::tempdir().unwrap();
        let run = RunDirectory::unused(directory.path().join("run"))?;
        let mut trainer = Trainer::start(recipe, data, run, Device::Cpu)?;
        trainer.read_after = read_after;
        trainer.fit(&mut Observers::new(), &AtomicBool::new(false))?;
        assert!(trainer.unread.is_empty());
        Ok(trainer.history().to_vec())
    }

    #[test]
    fn whenever_steps_are_read_they_are_the_same() {
        let changes = "training.clip_norm = 0.5\ntraining.accumulate = 2";
        let [at_once, later] = [1, 4].map(|steps| run(steps, changes).unwrap());
        assert_eq!(at_once.len(), 2);
        for (at_once, later) in at_once.iter().zip(&later) {
            assert_eq!(at_once.acc.to_bits(), later.acc.to_bits());
            for (now, then) in [
                (at_once.loss, later.loss),
                (at_once.val_loss, later.val_loss),
            ] {
                // Gradients are scaled by a factor of 32 bits.
                assert!((now / then - 1.0).abs() < 1e-5, "{then} for {now}");
            }
        }
        let unclipped = run(1, "training.accumulate = 2").unwrap();
        assert!(
            (unclipped[1].loss / at_once[1].loss - 1.0).abs() > 1e-4,
            "nothing was clipped"
        );
    }

    #[test]
    fn a_step_without_a_number_is_named_whenever_it_is_read() {
        let changes = "training.learning_rate = 1e37\ntraining.schedule.warmup_epochs = 0";
        let [at_once, later] = [1, 4].map(|steps| run(steps, changes).unwrap_err().to_string());
        assert!(at_once.contains("step"), "{at_once}");
        assert_eq!(at_once, later);
    }
}
