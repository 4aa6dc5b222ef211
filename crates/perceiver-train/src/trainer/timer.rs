//! The clock of a run: time spent and, with a budget, time left.
//!
//! Validation, saving and the test follow the last step, so training has to end earlier by the time
//! they take. That time is measured if possible, and otherwise estimated on the safe side.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The share of a budget that is left unplanned, for the unforeseen.
const SLACK: f64 = 0.02;
/// A safety factor on the time after the last step, since other programs may slow it down.
const CAUTION: f64 = 1.2;
/// The time of inference as a share of training time, until it is measured. Forward is a third of
/// the products.
const INFERENCE: f64 = 0.5;
/// The assumed speed of saving in bytes per second, until it is measured.
const SAVING_SPEED: f64 = 1e8;

/// The test after training, for a run with a budget.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TestReserve {
    /// The number of test images.
    pub images: usize,
    /// The expected time to read them.
    pub loading: Duration,
}

/// The time spent on a run, in seconds over all its processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct TimeSpent {
    /// The total until the state was saved.
    pub(crate) seconds: f64,
    /// The time before the first step.
    pub(crate) lead_in: f64,
    /// The duration of the last validation.
    pub(crate) validation: Option<f64>,
    /// The duration of the last save.
    pub(crate) saving: Option<f64>,
}

/// The running clock of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) since: Instant,
    /// Seconds of earlier processes.
    pub(crate) before: f64,
    pub(crate) test: TestReserve,
}

impl Clock {
    /// Returns the seconds spent so far.
    pub(crate) fn spent(&self) -> f64 {
        self.before + self.since.elapsed().as_secs_f64()
    }
}

/// The remaining work of a run with a budget.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    /// Training seconds per image in the last steps.
    pub(crate) training: f64,
    pub(crate) batch_size: usize,
    pub(crate) validation_images: usize,
    /// The size of the parameters in bytes.
    pub(crate) bytes: usize,
}

impl Workload {
    /// Returns the seconds that validation, saving and the test will take.
    fn reserve(&self, time: &TimeSpent, test: TestReserve) -> f64 {
        let validation_images = self.validation_images as f64;
        let measured = time.validation.map(|seconds| seconds / validation_images);
        // One-time work makes a few images slow, but never as slow as training.
        let inference = measured.map_or(INFERENCE * self.training, |one| one.min(self.training));
        // The weights, the best ones, the EMA, two moments, and the checkpoint's.
        let saving = time
            .saving
            .unwrap_or(6.0 * self.bytes as f64 / SAVING_SPEED);
        let evaluation = inference * (validation_images + test.images as f64);
        // A save may also be due after the last step.
        CAUTION * (evaluation + test.loading.as_secs_f64() + 2.0 * saving)
    }

    /// Returns the least budget in seconds for the time already spent, one step, and what follows
    /// it.
    pub(crate) fn least(&self, clock: &Clock, time: &TimeSpent) -> f64 {
        let step = self.training * self.batch_size as f64;
        (clock.spent() + step + self.reserve(time, clock.test)) / (1.0 - SLACK)
    }

    /// Returns the time left of a budget.
    pub(crate) fn within(&self, budget: Duration, clock: &Clock, time: &TimeSpent) -> TimeLeft {
        let end = (1.0 - SLACK) * budget.as_secs_f64() - self.reserve(time, clock.test);
        let spent = clock.spent();
        let step = self.training * self.batch_size as f64;
        TimeLeft {
            share: ((spent - time.lead_in) / (end - time.lead_in).max(1e-9)).clamp(0.0, 1.0),
            is_up: spent + step >= end,
        }
    }
}

/// The time left for training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TimeLeft {
    /// The share of the training time that has passed.
    pub(crate) share: f64,
    /// Whether there is no time for another step.
    pub(crate) is_up: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKLOAD: Workload = Workload {
        training: 0.01,
        batch_size: 100,
        validation_images: 100,
        bytes: 0,
    };

    fn clock(spent: f64) -> Clock {
        let test = TestReserve {
            images: 900,
            loading: Duration::from_secs(1),
        };
        Clock {
            since: Instant::now(),
            before: spent,
            test,
        }
    }

    #[test]
    fn training_stops_in_time_for_the_test() {
        let budget = Duration::from_secs(100);
        let at = |spent, time| WORKLOAD.within(budget, &clock(spent), &time);
        // 98 seconds, less 1.2 times (5 for 1,000 images and 1 for reading them).
        let guessed = TimeSpent::default();
        assert!(!at(89.0, guessed).is_up && at(89.81, guessed).is_up);
        assert!((at(45.4, guessed).share - 0.5).abs() < 1e-3);
        // 1 second for 1,000 images.
        let measured = TimeSpent {
            validation: Some(0.1),
            ..guessed
        };
        assert!(!at(94.5, measured).is_up && at(94.61, measured).is_up);
    }

    #[test]
    fn time_before_the_first_step_is_not_training_time() {
        let time = TimeSpent {
            lead_in: 30.0,
            ..TimeSpent::default()
        };
        let left = WORKLOAD.within(Duration::from_secs(100), &clock(30.0), &time);
        assert!(left.share < 1e-3);
    }

    #[test]
    fn the_minimum_budget_is_the_smallest_that_allows_a_step() {
        let (clock, time) = (clock(5.0), TimeSpent::default());
        let least = WORKLOAD.least(&clock, &time);
        // 5 seconds, 1 for a step, 1.2 times (5 for 1,000 images and 1 for reading them), and the
        // slack.
        assert!((least - 13.2 / 0.98).abs() < 0.1, "{least}");
        let is_up = |seconds| {
            let budget = Duration::from_secs_f64(seconds);
            WORKLOAD.within(budget, &clock, &time).is_up
        };
        assert!(is_up(least - 0.1) && !is_up(least + 0.1));
    }

    #[test]
    fn too_small_budgets_are_exhausted() {
        let left = WORKLOAD.within(Duration::from_secs(1), &clock(0.5), &TimeSpent::default());
        assert_eq!((left.share, left.is_up), (1.0, true));
    }
}
