//! Estimates the time and memory of a run from a trial batch. A run that cannot fit into memory is
//! refused: before anything is allocated, from the recipe's numbers alone, and later from the
//! trial.

use std::time::{Duration, Instant};

use perceiver_model::{Architecture, Summary};
use perceiver_ops::{Mode, RngKey};

use crate::diagnostics::memory::{memory_bytes, memory_limit_bytes, peak_memory_bytes};
use crate::error::{Result, TrainError};
use crate::optim::config::OptimizerName;
use crate::recipe::Recipe;
use crate::step::micro_batches::MicroBatches;

/// The maximum multiply-adds of a trial's forward pass: seconds on a laptop's cores.
const TRIAL: u64 = 40_000_000_000;

/// Limits of repeated passes: the share of a budget, the time, and the number.
const SHARE_OF_BUDGET: u32 = 20;
const PATIENCE: Duration = Duration::from_secs(2);
const PASSES: usize = 7;

/// The forecast of an epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// Seconds of training and validation.
    pub epoch_seconds: f64,
    /// Seconds per image for a process to train.
    pub training_seconds: f64,
    /// Seconds per image for a process to classify.
    pub inference_seconds: f64,
    /// The peak memory in bytes; none if the system does not report it.
    pub memory_bytes: Option<u64>,
}

impl Forecast {
    /// Checks that training on the CPU fits into the memory of this process.
    ///
    /// # Errors
    /// [`TrainError::Memory`] with the forecast and the available memory.
    pub fn require_room(&self) -> Result<()> {
        require_room("estimated", self.memory_bytes)
    }
}

/// Checks, from the recipe's numbers before anything is allocated, that training on the CPU can fit
/// into the memory of this process, with at most `images` images of a batch. It counts the
/// parameters, the tensors kept for each of them, and the minimum that backward needs of the
/// images. Actual training takes more.
///
/// # Errors
/// [`TrainError::Memory`] with the minimum and the available memory.
pub fn require_memory(recipe: &Recipe, images: usize) -> Result<()> {
    require_room("at least", Some(least_bytes(recipe, images)?))
}

fn require_room(how: &'static str, needed: Option<u64>) -> Result<()> {
    match (needed, memory_limit_bytes()) {
        (Some(needed), Some(limit)) if needed > limit => {
            Err(TrainError::Memory { how, needed, limit })
        }
        _ => Ok(()),
    }
}

/// Returns the minimum memory of training in bytes, in `f32`.
fn least_bytes(recipe: &Recipe, images: usize) -> Result<u64> {
    let training = &recipe.training;
    let parameters = Summary::new(&recipe.model)?.parameters() as u64;
    let moments = match training.optimizer.name {
        OptimizerName::Sgd => 0,
        OptimizerName::Muon => 1, // two for parameters that are no hidden matrices
        OptimizerName::Adam | OptimizerName::AdamW | OptimizerName::Lamb => 2,
    };
    let ema = u64::from(training.ema_decay.is_some());
    // The parameters, their gradients and the best weights.
    let kept = parameters.saturating_mul(3 + moments + ema);
    let batch = images.min(training.batch_size) as u64;
    let input = (recipe.model.image_size() as u64).pow(2) * recipe.model.channels() as u64;
    let at_once = batch.div_ceil(training.gradient_accumulation as u64);
    let values = kept
        .saturating_add(batch.saturating_mul(input))
        .saturating_add(at_once.saturating_mul(recipe.model.least_values_per_image()));
    Ok(values.saturating_mul(4))
}

/// A trial of a batch, or of a rank's part of one; the numbers of images are those of a rank.
pub(crate) struct Trial<'a> {
    pub(crate) pass: MicroBatches<'a>,
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
            .min(self.most_in_memory())
            .clamp(1, batch);
        let training = self.seconds(count, || {
            let recipe = &self.recipe.training;
            let key = RngKey::new(0).fold_in_name("trial");
            let part = self.pass.first(count)?;
            part.run(
                recipe.gradient_accumulation,
                recipe.parallel_micro_batches,
                |_| Mode::Training(key),
            )
            .map(drop)
        })?;
        // The program's allocator keeps freed memory, so this is the peak of the pass.
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

    /// Returns the number of images whose pass is sure to fit into memory, on the CPU; a pass takes
    /// several times the minimum known beforehand.
    fn most_in_memory(&self) -> usize {
        const TIMES: u64 = 16;
        let limit = memory_limit_bytes().filter(|_| self.pass.images.device().is_cpu());
        let of_an_image = self.recipe.model.least_values_per_image();
        let of_an_image = of_an_image.saturating_mul(4 * TIMES);
        let most = limit.map_or(u64::MAX, |limit| limit / of_an_image.max(1));
        usize::try_from(most).unwrap_or(usize::MAX)
    }

    /// Returns the seconds per image of a pass over `count` images: the median of as many passes as
    /// there is time for, without the first, which meets cold caches and untouched memory.
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

    /// Returns the bytes kept beside the parameters: two moments, the best weights, the EMA, and a
    /// copy of all of it while saving.
    fn kept_bytes(&self) -> u64 {
        let kinds = 3 + u64::from(self.recipe.training.ema_decay.is_some());
        4 * self.pass.parameters.count() as u64 * (2 * kinds + 1)
    }
}

#[cfg(test)]
mod tests {
    use perceiver_model::PerceiverConfig;

    use super::*;

    fn model(recipe: &mut Recipe) -> &mut PerceiverConfig {
        recipe.model.perceiver_mut().unwrap()
    }

    #[test]
    fn minimum_memory_is_a_monotonic_lower_bound() {
        let bytes = |change: fn(&mut Recipe)| {
            let mut recipe = Recipe::default();
            change(&mut recipe);
            least_bytes(&recipe, 1_000_000).unwrap()
        };
        let example = bytes(|_| {});
        assert!((200_000_000..2_000_000_000).contains(&example), "{example}");
        let changes: [fn(&mut Recipe); 5] = [
            |recipe| recipe.training.batch_size = 128,
            |recipe| recipe.training.ema_decay = Some(0.9),
            |recipe| model(recipe).latent_dim = 512,
            |recipe| model(recipe).image_size = 128,
            |recipe| model(recipe).num_iterations = 3,
        ];
        for change in changes {
            assert!(bytes(change) > example);
        }
        assert!(bytes(|recipe| recipe.training.gradient_accumulation = 4) < example);
        assert!(bytes(|recipe| recipe.training.optimizer.name = OptimizerName::Sgd) < example);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn excessive_memory_is_rejected_with_both_figures() {
        require_memory(&Recipe::default(), 1).unwrap();
        let mut recipe = Recipe::default();
        recipe.training.batch_size = 1 << 20;
        let error = require_memory(&recipe, usize::MAX).unwrap_err();
        let TrainError::Memory { needed, limit, .. } = error else {
            panic!("{error}")
        };
        assert!(needed > 3_000_000_000_000 && limit < needed);
        let forecast = |memory_bytes| Forecast {
            epoch_seconds: 1.0,
            training_seconds: 1.0,
            inference_seconds: 1.0,
            memory_bytes,
        };
        forecast(None).require_room().unwrap();
        forecast(Some(1)).require_room().unwrap();
        let error = forecast(Some(u64::MAX)).require_room().unwrap_err();
        assert!(
            error.to_string().contains("available to this process"),
            "{error}"
        );
    }
}
