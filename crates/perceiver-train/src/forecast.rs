//! What a run will take, from a trial that changes nothing: one batch, or where a model is slow a part of one, forward and
//! backward, and once for inference. What cannot fit into memory is refused: by the recipe's numbers alone, before anything is made,
//! and by what the trial came to.

use std::time::{Duration, Instant};

use perceiver_model::Summary;
use perceiver_ops::{Key, Mode};

use crate::batch_pass::BatchPass;
use crate::error::{Result, TrainError};
use crate::memory::{memory_bytes, memory_limit_bytes, peak_memory_bytes};
use crate::optimizer_recipe::OptimizerName;
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

impl Forecast {
    /// Makes sure that training on the CPU has room where this process runs.
    ///
    /// # Errors
    /// [`TrainError::Memory`] with the forecast and what there is.
    pub fn require_room(&self) -> Result<()> {
        require_room("the forecast", self.memory_bytes)
    }
}

/// Makes sure that training by a recipe on the CPU, with at most so many `images` of a batch in this process, can have room where this process runs, told by
/// the recipe's numbers before anything is made: parameters, what is kept for each of them, and of the images of a batch what
/// backward needs at least. Training takes more than that.
///
/// # Errors
/// [`TrainError::Memory`] with the least it takes and what there is.
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

/// The least bytes that training takes, in `f32`.
fn least_bytes(recipe: &Recipe, images: usize) -> Result<u64> {
    let training = &recipe.training;
    let parameters = Summary::new(&recipe.model)?.parameters() as u64;
    let moments = match training.optimizer.name {
        OptimizerName::Sgd => 0,
        OptimizerName::Adam | OptimizerName::AdamW | OptimizerName::Lamb => 2,
    };
    let averages = u64::from(training.averaging.is_some());
    // With their gradients, and the best so far.
    let kept = parameters.saturating_mul(3 + moments + averages);
    let batch = images.min(training.batch_size) as u64;
    let input = (recipe.model.image_size as u64).pow(2) * recipe.model.channels as u64;
    let at_once = batch.div_ceil(training.accumulate as u64);
    let values = kept
        .saturating_add(batch.saturating_mul(input))
        .saturating_add(at_once.saturating_mul(least_of_an_image(recipe)));
    Ok(values.saturating_mul(4))
}

/// The least values that are kept of an image for backward: the tokens, and the latents after every layer.
fn least_of_an_image(recipe: &Recipe) -> u64 {
    let model = &recipe.model;
    let [tokens, latents, width, iterations, blocks] = [
        model.num_patches(),
        model.latent_dim,
        model.projection_dim,
        model.num_iterations,
        model.num_transformer_blocks,
    ]
    .map(|size| size as u64);
    let layers = iterations.saturating_mul(blocks.saturating_add(1));
    tokens
        .saturating_add(latents.saturating_mul(layers))
        .saturating_mul(width)
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
            .min(self.most_in_memory())
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

    /// The most images whose pass is sure to have room, on the CPU: it takes several times what is known of it beforehand.
    fn most_in_memory(&self) -> usize {
        const TIMES: u64 = 16;
        let limit = memory_limit_bytes().filter(|_| self.pass.images.device().is_cpu());
        let of_an_image = least_of_an_image(self.recipe).saturating_mul(4 * TIMES);
        let most = limit.map_or(u64::MAX, |limit| limit / of_an_image.max(1));
        usize::try_from(most).unwrap_or(usize::MAX)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_is_less_than_what_training_takes_and_grows_with_everything() {
        let bytes = |change: fn(&mut Recipe)| {
            let mut recipe = Recipe::default();
            change(&mut recipe);
            least_bytes(&recipe, 1_000_000).unwrap()
        };
        let example = bytes(|_| {});
        assert!((200_000_000..2_000_000_000).contains(&example), "{example}");
        let changes: [fn(&mut Recipe); 5] = [
            |recipe| recipe.training.batch_size = 128,
            |recipe| recipe.training.averaging = Some(0.9),
            |recipe| recipe.model.latent_dim = 512,
            |recipe| recipe.model.image_size = 128,
            |recipe| recipe.model.num_iterations = 3,
        ];
        for change in changes {
            assert!(bytes(change) > example);
        }
        assert!(bytes(|recipe| recipe.training.accumulate = 4) < example);
        assert!(bytes(|recipe| recipe.training.optimizer.name = OptimizerName::Sgd) < example);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_no_machine_has_is_refused_with_both_figures() {
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
            error.to_string().contains("this process may have"),
            "{error}"
        );
    }
}
