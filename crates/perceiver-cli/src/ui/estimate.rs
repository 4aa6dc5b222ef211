//! Prints the estimated time and memory of a run before it, and the actual ones after.

use anyhow::Result;
use perceiver_data::Split;
use perceiver_model::Summary;
use perceiver_report::counted;
use perceiver_train::{Budget, Forecast, Recipe, Trainer, peak_memory_bytes};

/// An estimate, and the progress of the run when it was made.
pub(crate) struct PrintedEstimate {
    forecast: Forecast,
    epochs_before: usize,
}

impl PrintedEstimate {
    /// Measures and logs the estimated time and memory of the run, and of the runs `after` it;
    /// `None` if the run is done. Returns an error if memory is too small.
    pub(crate) fn before(trainer: &Trainer, after: &[&Recipe]) -> Result<Option<Self>> {
        if trainer.is_done() {
            return Ok(None);
        }
        let Some(forecast) = trainer.forecast()? else {
            return Ok(None);
        };
        let epochs_before = trainer.history().len();
        let training = &trainer.recipe().training;
        let left = training.epochs.saturating_sub(epochs_before) as f64;
        let seconds = match training.budget {
            None => left * forecast.epoch_seconds,
            Some(budget) => budget.duration().as_secs_f64(),
        };
        let whole = match training.budget {
            None => format!("{} in total", time(seconds)),
            Some(budget) => {
                let epochs = budget.duration().as_secs_f64() / forecast.epoch_seconds;
                format!("about {epochs:.1} epochs in {budget}")
            }
        };
        tracing::info!(
            "estimate: {} per epoch, {whole}; memory {}",
            time(forecast.epoch_seconds),
            memory(forecast.memory_bytes)
        );
        if trainer.device().is_cpu() {
            forecast.require_room()?;
        }
        if let Some(budget) = training.budget
            && epochs_before == 0
        {
            warn_if_too_short(budget, trainer.least_budget(&forecast));
        }
        if !after.is_empty() {
            let rate = forecast.epoch_seconds / epoch_work(trainer.recipe(), trainer.images())?;
            let later = seconds_of(after, rate, trainer.images())?;
            tracing::info!(
                "estimate of the sweep: {} left, {} in total",
                counted(1 + after.len(), "run"),
                time(seconds + later)
            );
        }
        Ok(Some(Self {
            forecast,
            epochs_before,
        }))
    }

    /// Logs the actual time; nothing if no epoch was completed.
    pub(crate) fn after(&self, trainer: &Trainer) {
        let steps = trainer.steps_per_epoch();
        let epochs = &trainer.history()[self.epochs_before..];
        // A budget cuts its last epoch short.
        let whole = match trainer.recipe().training.budget {
            Some(_) if epochs.len() > 1 => &epochs[..epochs.len() - 1],
            _ => epochs,
        };
        if whole.is_empty() || steps == 0 {
            return;
        }
        let seconds = whole.iter().map(|epoch| epoch.seconds).sum::<f64>() / whole.len() as f64;
        tracing::info!(
            "time per epoch {} (estimate {}), peak memory {} (estimate {})",
            time(seconds),
            time(self.forecast.epoch_seconds),
            memory(peak_memory_bytes()),
            memory(self.forecast.memory_bytes)
        );
    }
}

/// Warns if a budget is too short for any run, with the minimum.
fn warn_if_too_short(budget: Budget, least: Budget) {
    if least.duration() > budget.duration() {
        tracing::warn!(
            "a budget of {budget} is too short for one step, validation, saving and the test, and will be exceeded; the minimum here is \
             about --budget {}",
            least.to_string().replace(' ', "")
        );
    }
}

/// Estimates the time of runs with these recipes from the seconds per multiply-add. `images` is the
/// number of training images for data sets of unknown size.
fn seconds_of(recipes: &[&Recipe], rate: f64, images: usize) -> Result<f64> {
    let seconds = recipes.iter().map(|recipe| {
        let training = &recipe.training;
        if let Some(budget) = training.budget {
            return Ok(budget.duration().as_secs_f64());
        }
        let data = &recipe.data;
        let count = data.dataset.count(Split::Train, &recipe.load_options())?;
        let count = count.unwrap_or(images);
        let count = count.min(data.limit_train.unwrap_or(usize::MAX));
        Ok(rate * training.epochs as f64 * epoch_work(recipe, count)?)
    });
    seconds.sum()
}

/// Returns the multiply-adds of a forward pass over `images` images.
fn epoch_work(recipe: &Recipe, images: usize) -> Result<f64> {
    let an_image = Summary::new(&recipe.model)?.multiply_adds();
    Ok((images as f64 * an_image as f64).max(1.0))
}

/// Formats a duration for people.
pub(crate) fn time(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..120 => format!("{whole} s"),
        120..7200 => format!("{} min", (seconds / 60.0).round()),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

fn memory(bytes: Option<u64>) -> String {
    match bytes {
        None => "unknown".to_string(),
        Some(bytes) if bytes < 10_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        Some(bytes) => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twice the epochs take twice the time; a run with a budget takes its budget.
    #[test]
    fn later_runs_are_estimated_by_multiply_adds() {
        let recipe = |text: &str| {
            let layers = [("test", text)];
            Recipe::from_layers(&layers).unwrap()
        };
        let shapes = "data.dataset = 'shapes'\ndata.limit_train = 100\n";
        let one = recipe(&format!("{shapes}training.epochs = 1"));
        let two = recipe(&format!("{shapes}training.epochs = 2"));
        let timed = recipe(&format!("{shapes}training.budget = '90s'"));
        let work = epoch_work(&one, 100).unwrap();
        let seconds = |recipes: &[&Recipe]| seconds_of(recipes, 5.0 / work, 7).unwrap();
        assert!((seconds(&[&one]) - 5.0).abs() < 1e-9);
        assert!((seconds(&[&one, &two, &timed]) - 105.0).abs() < 1e-9);
        assert!(seconds(&[]).abs() < 1e-9);
    }

    #[test]
    fn times_and_sizes_are_readable() {
        assert_eq!(
            [0.25, 61.4, 150.0, 9000.0].map(time),
            ["0.2 s", "61 s", "3 min", "2.5 h"]
        );
        assert_eq!(
            [None, Some(412_300_000), Some(12_000_000_000)].map(memory),
            ["unknown", "412 MB", "12.0 GB"]
        );
    }
}
