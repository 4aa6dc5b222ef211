//! Timelines: the step and the minute at which each epoch ended, to show curves by either.

use perceiver_train::{EpochMetrics, StepMetrics};
use serde::Serialize;

use crate::page::figure::rounded;
use crate::run::Run;

/// Corresponding positions of a run, from its start; `page.js` interpolates between them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Timeline {
    epochs: Vec<f64>,
    /// Empty if unknown.
    steps: Vec<f64>,
    minutes: Vec<f64>,
}

impl Timeline {
    pub(crate) fn of_run(run: &Run) -> Self {
        Self::new(&run.epochs, &run.steps, run.steps_per_epoch())
    }

    /// Creates the timeline of epochs of `steps_per_epoch` steps; 0 if unknown. The last epoch may
    /// have had fewer, which the recorded steps say.
    fn new(epochs: &[EpochMetrics], steps: &[StepMetrics], steps_per_epoch: usize) -> Self {
        let mut seconds = 0.0;
        let mut timeline = Self {
            epochs: vec![0.0],
            steps: vec![0.0],
            minutes: vec![0.0],
        };
        for epoch in epochs {
            seconds += epoch.seconds;
            timeline.epochs.push(epoch.epoch as f64);
            timeline
                .steps
                .push(epoch.epoch as f64 * steps_per_epoch as f64);
            timeline.minutes.push(rounded(seconds / 60.0));
        }
        if let (Some(last), Some(end)) = (steps.last(), timeline.steps.last_mut()) {
            *end = end.min(last.step as f64);
        }
        // The epoch that is being trained.
        let ended = epochs.last().map_or(0.0, |epoch| epoch.epoch as f64);
        if let Some(last) = steps.last().filter(|last| last.epoch > ended) {
            timeline.epochs.push(last.epoch);
            timeline.steps.push(last.step as f64);
            timeline.minutes.push(rounded(last.seconds / 60.0));
        }
        if steps_per_epoch == 0 {
            timeline.steps.clear();
        }
        timeline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_in_training_is_on_the_timeline() {
        let step = StepMetrics {
            step: 5,
            epoch: 0.5,
            seconds: 30.0,
            loss: 1.0,
            learning_rate: 0.1,
            gradient_norm: 1.0,
            peak_memory_bytes: None,
        };
        let timeline = Timeline::new(&[], &[step], 10);
        assert_eq!(timeline.epochs, [0.0, 0.5]);
        assert_eq!(
            (timeline.steps, timeline.minutes),
            (vec![0.0, 5.0], vec![0.0, 0.5])
        );
    }
}
