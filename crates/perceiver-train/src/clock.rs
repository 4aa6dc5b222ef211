//! The time of a run: what it has taken, and, where there is a budget, what is left for training.
//!
//! Validation, saving and the test come after the last step, so training has to end earlier by as long as these will take. That
//! is measured where it can be and guessed on the safe side where not.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The part of a budget that nothing is planned in, for what cannot be foreseen.
const SLACK: f64 = 0.02;
/// How much longer than measured the work after the last step may take, since other programs may slow it.
const CAUTION: f64 = 1.2;
/// A picture's share of its training time that inference takes, until it was measured. Forward is a third of the products.
const INFERENCE: f64 = 0.5;
/// Bytes a second that saving is taken for until it was measured.
const SAVING_SPEED: f64 = 1e8;

/// What comes after training, for a run that has a budget.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TestAhead {
    /// Test pictures.
    pub images: usize,
    /// How long reading them will take.
    pub loading: Duration,
}

/// Where the time of a run has gone, in seconds of all the processes that worked on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct TimeSpent {
    /// All of it, until the state was saved.
    pub(crate) seconds: f64,
    /// What went by before the first step.
    pub(crate) lead_in: f64,
    /// The last validation.
    pub(crate) validation: Option<f64>,
    /// The last time the state was saved.
    pub(crate) saving: Option<f64>,
}

/// A clock that goes while the program works on the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) since: Instant,
    /// Seconds of earlier processes.
    pub(crate) before: f64,
    pub(crate) test: TestAhead,
}

impl Clock {
    /// Seconds so far.
    pub(crate) fn spent(&self) -> f64 {
        self.before + self.since.elapsed().as_secs_f64()
    }
}

/// The work that a run with a budget has before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    /// Seconds of the last steps for a picture.
    pub(crate) training: f64,
    pub(crate) batch_size: usize,
    pub(crate) validation_images: usize,
    /// Bytes of the parameters.
    pub(crate) bytes: usize,
}

impl Workload {
    /// Seconds that validation, saving and the test will take.
    fn reserve(&self, time: &TimeSpent, test: TestAhead) -> f64 {
        let validation_images = self.validation_images as f64;
        let measured = time.validation.map(|seconds| seconds / validation_images);
        // A few pictures are slow for what is done once, but never as slow as in training.
        let inference = measured.map_or(INFERENCE * self.training, |one| one.min(self.training));
        // Weights, the best ones, averages, two moments, and the checkpoint's.
        let saving = time
            .saving
            .unwrap_or(6.0 * self.bytes as f64 / SAVING_SPEED);
        let pictures = inference * (validation_images + test.images as f64);
        // Saving may also be due after the last step.
        CAUTION * (pictures + test.loading.as_secs_f64() + 2.0 * saving)
    }

    /// Seconds of the least budget that has room for a step, what has gone by, and what follows it.
    pub(crate) fn least(&self, clock: &Clock, time: &TimeSpent) -> f64 {
        let step = self.training * self.batch_size as f64;
        (clock.spent() + step + self.reserve(time, clock.test)) / (1.0 - SLACK)
    }

    /// How the time of a run with a budget stands.
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

/// How the time for training stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TimeLeft {
    /// The share of it that has gone by.
    pub(crate) share: f64,
    /// Whether there is none for another step.
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
        let test = TestAhead {
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
    fn training_ends_early_enough_for_what_follows() {
        let budget = Duration::from_secs(100);
        let at = |spent, time| WORKLOAD.within(budget, &clock(spent), &time);
        // 98 seconds, less 1.2 of 5 for 1,000 pictures and 1 for reading them.
        let guessed = TimeSpent::default();
        assert!(!at(89.0, guessed).is_up && at(89.81, guessed).is_up);
        assert!((at(45.4, guessed).share - 0.5).abs() < 1e-3);
        // 1 second for 1,000 pictures.
        let measured = TimeSpent {
            validation: Some(0.1),
            ..guessed
        };
        assert!(!at(94.5, measured).is_up && at(94.61, measured).is_up);
    }

    #[test]
    fn what_went_by_before_the_first_step_is_no_training() {
        let time = TimeSpent {
            lead_in: 30.0,
            ..TimeSpent::default()
        };
        let left = WORKLOAD.within(Duration::from_secs(100), &clock(30.0), &time);
        assert!(left.share < 1e-3);
    }

    #[test]
    fn the_least_budget_is_the_first_with_room_for_a_step() {
        let (clock, time) = (clock(5.0), TimeSpent::default());
        let least = WORKLOAD.least(&clock, &time);
        // 5 seconds, 1 for a step, 1.2 of 5 for 1,000 pictures and 1 for reading them, and the slack.
        assert!((least - 13.2 / 0.98).abs() < 0.1, "{least}");
        let is_up = |seconds| {
            let budget = Duration::from_secs_f64(seconds);
            WORKLOAD.within(budget, &clock, &time).is_up
        };
        assert!(is_up(least - 0.1) && !is_up(least + 0.1));
    }

    #[test]
    fn a_budget_that_is_too_small_is_used_up() {
        let left = WORKLOAD.within(Duration::from_secs(1), &clock(0.5), &TimeSpent::default());
        assert_eq!((left.share, left.is_up), (1.0, true));
    }
}
