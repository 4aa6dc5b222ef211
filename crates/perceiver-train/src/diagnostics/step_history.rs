//! The step history: training curves with a bounded number of points.
//!
//! A point is the mean over `stride` steps. Once there are 2,000 points, each two become one and
//! the stride doubles, so a run of any length keeps 1,000 to 2,000.

use serde::{Deserialize, Serialize};

/// The number of points at which the stride doubles.
const MOST_POINTS: usize = 2_000;

/// The means over some consecutive steps: a line of `training/steps.csv`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The last of the steps, from 1.
    pub step: u64,
    /// The epochs done after it, with fractions.
    pub epoch: f64,
    /// The time of training and validation up to it, in seconds.
    pub seconds: f64,
    /// The mean training loss, with dropout, in nats.
    pub loss: f64,
    /// The mean learning rate.
    pub learning_rate: f64,
    /// The mean global gradient norm before clipping.
    pub gradient_norm: f64,
    /// The peak memory of the process, in bytes, if the system reports it.
    pub peak_memory_bytes: Option<u64>,
}

impl StepMetrics {
    /// Combines the means of `steps` steps with those of `more` later ones.
    fn with(self, steps: u64, later: Self, more: u64) -> Self {
        let mean = |a: f64, b: f64| {
            let share = more as f64 / (steps + more).max(1) as f64;
            a + (b - a) * share
        };
        Self {
            loss: mean(self.loss, later.loss),
            learning_rate: mean(self.learning_rate, later.learning_rate),
            gradient_norm: mean(self.gradient_norm, later.gradient_norm),
            ..later
        }
    }
}

/// The points so far. It is saved with the run, so a resumed run continues its curves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StepHistory {
    stride: u64,
    points: Vec<StepMetrics>,
    /// The steps since the last point, and their means.
    pending: Option<(u64, StepMetrics)>,
}

impl Default for StepHistory {
    fn default() -> Self {
        Self {
            stride: 1,
            points: Vec::new(),
            pending: None,
        }
    }
}

impl StepHistory {
    /// Adds a step.
    pub(crate) fn push(&mut self, step: StepMetrics) {
        let (count, mean) = match self.pending.take() {
            None => (1, step),
            Some((count, mean)) => (count + 1, mean.with(count, step, 1)),
        };
        if count < self.stride {
            self.pending = Some((count, mean));
            return;
        }
        self.points.push(mean);
        if self.points.len() >= MOST_POINTS {
            self.halve();
        }
    }

    fn halve(&mut self) {
        let pairs = self.points.chunks_exact(2);
        self.points = pairs
            .map(|pair| pair[0].with(self.stride, pair[1], self.stride))
            .collect();
        self.stride *= 2;
    }

    /// Returns the points.
    pub(crate) fn points(&self) -> &[StepMetrics] {
        &self.points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> StepMetrics {
        StepMetrics {
            step,
            epoch: step as f64 / 10.0,
            seconds: step as f64,
            loss: step as f64,
            learning_rate: 0.001,
            gradient_norm: 1.0,
            peak_memory_bytes: Some(step),
        }
    }

    #[test]
    fn any_number_of_steps_keeps_a_bounded_number_of_points() {
        let mut history = StepHistory::default();
        for number in 1..=100_000 {
            history.push(step(number));
            assert!(history.points().len() < MOST_POINTS);
        }
        assert!(history.points().len() >= MOST_POINTS / 2 - 1);
        assert_eq!(history.stride, 64);
        // Every point is the mean of its own steps.
        for (index, point) in (1..).zip(history.points()) {
            let last = 64 * index;
            assert_eq!(point.step, last);
            assert_eq!(point.peak_memory_bytes, Some(last));
            let mean = last as f64 - 31.5;
            assert!(
                (point.loss - mean).abs() < 1e-6,
                "{} for {mean}",
                point.loss
            );
        }
    }

    #[test]
    fn few_steps_are_kept_as_they_are() {
        let mut history = StepHistory::default();
        let steps: Vec<StepMetrics> = (1..=50).map(step).collect();
        for step in &steps {
            history.push(*step);
        }
        assert_eq!(history.points(), steps);
    }
}
