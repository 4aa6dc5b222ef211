//! What a run will take, from a trial that changes nothing: one batch, or where a model is slow a part of one, forward and
//! backward, and once for inference.

use std::time::{Duration, Instant};

use perceiver_model::Summary;
use perceiver_ops::{Key, Mode};

use crate::batch_pass::BatchPass;
use crate::error::Result;
use crate::memory::{memory_bytes, peak_memory_bytes};
use crate::recipe::Recipe;

/// Multiply-adds of forward passes that a trial may take: seconds on a laptop's cores.
const TRIAL: u64 = 40_000_000_000;

/// How long passes are repeated, a share of a budget at most, and how often at most.
const SHARE_OF_BUDGET: u32 = 20;
const PATIENCE: Duration = Duration::from_secs(2);
const PASSES: usize = 7;

/// What an epoch will take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// Seconds of training and validation.
    pub epoch_seconds: f64,
    /// Seconds that a process takes to learn from an image.
    pub training_seconds: f64,
    /// Seconds that a process takes to classify an image.
    pub inference_seconds: f64,
    /// The most memory at once, in bytes; None where the system does not tell.
    pub memory_bytes: Option<u64>,
}

/// A batch, or a rank's part of one, to try out; the pictures are those that a rank has.
pub(crate) struct Trial<'a> {
    pub(crate) pass: BatchPass<'a>,
    pub(crate) recipe: &'a Recipe,
    pub(crate) train_images: usize,
    pub(crate) validation_images: usize,
}

impl Trial<'_> {
    pub(crate) fn forecast(&self) -> Result<Forecast> {
        let before = memory_bytes();
        let batch = self.pass.images.dim(0)?;
        let cost = Summary::new(&self.recipe.model)?.multiply_adds().max(1);
        let count = usize::try_from(TRIAL / cost)
            .unwrap_or(batch)
            .clamp(1, batch);
        let training = self.seconds(count, || {
            let recipe = &self.recipe.training;
            let key = Key::new(0).fold_in_name("trial");
            let part = self.pass.first(count)?;
            part.run(recipe.accumulate, recipe.side_by_side, |_| {
                Mode::Training(key)
            })
            .map(drop)
        })?;
        // The program's allocator keeps what is freed, so this is what the pass had at its height.
        let after = memory_bytes();
        let dtype = self.pass.model.dtype();
        let parameters = self.pass.parameters;
        let model = parameters.inference_model_in(&self.recipe.model, dtype)?;
        let images = self.pass.images.narrow(0, 0, count)?;
        let inference = self.seconds(count, || {
            model.forward(&images, Mode::Inference)?;
            Ok(())
        })?;
        let whole = batch as f64 / count as f64;
        Ok(Forecast {
            training_seconds: training,
            inference_seconds: inference,
            epoch_seconds: training * self.train_images as f64
                + inference * self.validation_images as f64,
            memory_bytes: before.zip(after).map(|(before, after)| {
                let step = after.saturating_sub(before) as f64 * whole;
                let training = before + step as u64 + self.kept_bytes();
                training.max(peak_memory_bytes().unwrap_or(0))
            }),
        })
    }

    /// Seconds a picture of a pass over `count`, the median of those that there is time for, without the first, which meets
    /// cold caches and untouched memory.
    fn seconds(&self, count: usize, mut pass: impl FnMut() -> Result<()>) -> Result<f64> {
        pass()?;
        let patience = match self.recipe.training.budget {
            None => PATIENCE,
            Some(budget) => PATIENCE.min(budget.duration() / SHARE_OF_BUDGET),
        };
        let begin = Instant::now();
        let mut seconds = Vec::new();
        while seconds.is_empty() || (seconds.len() < PASSES && begin.elapsed() < patience) {
            let start = Instant::now();
            pass()?;
            self.pass.images.device().synchronize()?;
            seconds.push(start.elapsed().as_secs_f64() / count as f64);
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[seconds.len() / 2])
    }

    /// What a run keeps beside the parameters: two moments, the best weights, averages, and all of it once more while it is saved.
    fn kept_bytes(&self) -> u64 {
        let kinds = 3 + u64::from(self.recipe.training.averaging.is_some());
        4 * self.pass.parameters.count() as u64 * (2 * kinds + 1)
    }
}
