//! What a run will take, said before it, and what it took, said after.

use anyhow::Result;
use perceiver_train::{Budget, Forecast, Trainer, peak_memory_bytes};

/// A forecast and where the run stood then.
pub(crate) struct Told {
    forecast: Forecast,
    epochs_before: usize,
}

impl Told {
    /// Measures and says what the run will take; nothing for one that is over. What memory has no room for is refused.
    pub(crate) fn before(trainer: &Trainer) -> Result<Option<Self>> {
        if trainer.is_done() {
            return Ok(None);
        }
        let Some(forecast) = trainer.forecast()? else {
            return Ok(None);
        };
        let epochs_before = trainer.history().len();
        let training = &trainer.recipe().training;
        let whole = match training.budget {
            None => {
                let left = training.epochs.saturating_sub(epochs_before) as f64;
                format!("{} in all", time(left * forecast.epoch_seconds))
            }
            Some(budget) => {
                let epochs = budget.duration().as_secs_f64() / forecast.epoch_seconds;
                format!("about {epochs:.1} of them in {budget}")
            }
        };
        tracing::info!(
            "forecast: {} an epoch, {whole}; {} of memory",
            time(forecast.epoch_seconds),
            memory(forecast.memory_bytes)
        );
        if trainer.device().is_cpu() {
            forecast.require_room()?;
        }
        if let Some(budget) = training.budget
            && epochs_before == 0
        {
            say_if_too_short(budget, trainer.least_budget(&forecast));
        }
        Ok(Some(Self {
            forecast,
            epochs_before,
        }))
    }

    /// Says what it took; nothing where no epoch was finished.
    pub(crate) fn after(&self, trainer: &Trainer) {
        let steps = trainer.steps_per_epoch();
        let epochs = &trainer.history()[self.epochs_before..];
        // The last epoch of a budget is cut short.
        let whole = match trainer.recipe().training.budget {
            Some(_) if epochs.len() > 1 => &epochs[..epochs.len() - 1],
            _ => epochs,
        };
        if whole.is_empty() || steps == 0 {
            return;
        }
        let seconds = whole.iter().map(|epoch| epoch.seconds).sum::<f64>() / whole.len() as f64;
        tracing::info!(
            "an epoch took {} (forecast {}), memory {} at its peak (forecast {})",
            time(seconds),
            time(self.forecast.epoch_seconds),
            memory(peak_memory_bytes()),
            memory(self.forecast.memory_bytes)
        );
    }
}

/// Says of a budget that has no room for a run at all that it will be exceeded, and what would do.
fn say_if_too_short(budget: Budget, least: Budget) {
    if least.duration() > budget.duration() {
        tracing::warn!(
            "a budget of {budget} is too short for one step, validation, saving and the test, and will be exceeded; the least that works here is \
             about --budget {}",
            least.to_string().replace(' ', "")
        );
    }
}

/// Seconds for people.
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
        None => "an unknown amount".to_string(),
        Some(bytes) if bytes < 10_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        Some(bytes) => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_readable() {
        assert_eq!(
            [0.25, 61.4, 150.0, 9000.0].map(time),
            ["0.2 s", "61 s", "3 min", "2.5 h"]
        );
        assert_eq!(
            [None, Some(412_300_000), Some(12_000_000_000)].map(memory),
            ["an unknown amount", "412 MB", "12.0 GB"]
        );
    }
}
