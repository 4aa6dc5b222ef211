//! Learning-rate schedules: a factor on the learning rate as a function of the step, or of the
//! share of a time budget.
//!
//! A schedule has no state to save, so a resumed run continues it exactly.
//! [`Plateau`](crate::Plateau) is the exception: it depends on validation losses.

pub(crate) mod reduce_on_plateau;

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// The shape of a schedule after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleName {
    /// Constant until the validation loss stops falling, as in the Keras example. With a time
    /// budget, also linear decay in the last fifth of the time.
    #[default]
    Plateau,
    /// Constant.
    Constant,
    /// Cosine decay (Loshchilov and Hutter, "SGDR", 2017).
    Cosine,
    /// Linear decay.
    Linear,
    /// Up from 1/25 over the warm-up, or three tenths of the run, and down again, both as half a
    /// cosine (Smith and Topin, "Super-convergence", 2018, in PyTorch's form).
    OneCycle,
}

/// The granularity of learning-rate changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Every {
    /// Every step.
    #[default]
    Step,
    /// Every epoch.
    Epoch,
}

/// The learning-rate schedule of a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleRecipe {
    /// The shape: plateau, constant, cosine, linear or one-cycle.
    pub name: ScheduleName,
    /// The granularity of changes: step or epoch.
    pub every: Every,
    /// The length of the linear warm-up in epochs, which may be fractional; at most three tenths of
    /// the run.
    pub warmup_epochs: f64,
    /// The share of the run after the warm-up that stays at the peak learning rate, before cosine
    /// or linear decay.
    pub hold: f64,
    /// The final learning rate, as a share of the peak.
    pub last: f64,
}

impl Default for ScheduleRecipe {
    fn default() -> Self {
        Self {
            name: ScheduleName::Plateau,
            every: Every::Step,
            warmup_epochs: 0.0,
            hold: 0.0,
            last: 0.0,
        }
    }
}

/// The position in a run, in steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    /// The number of steps done before this one.
    pub step: u64,
    /// The number of steps per epoch.
    pub steps_per_epoch: u64,
    /// The end of the run.
    pub end: End,
}

/// The end of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// After this number of epochs.
    Epochs(u64),
    /// When the time budget is used up; this share of it has passed, 0 to 1.
    Clock(f64),
}

/// The maximum share of a run that the warm-up takes.
const LONGEST_WARMUP: f64 = 0.3;
/// The share of a time budget after which schedule `plateau` decays.
const PLATEAU_HOLD: f64 = 0.8;

impl Position {
    /// Returns the number of steps of the whole run; with a time budget, an extrapolation of the
    /// speed so far.
    fn steps(&self) -> f64 {
        match self.end {
            End::Epochs(epochs) => (self.steps_per_epoch.max(1) * epochs) as f64,
            End::Clock(share) if self.step > 0 && share > 0.0 => self.step as f64 / share,
            End::Clock(_) => f64::INFINITY,
        }
    }
}

impl ScheduleRecipe {
    /// Returns the factor on the learning rate for the step at `position`.
    ///
    /// ```
    /// use perceiver_train::{End, Position, ScheduleName, ScheduleRecipe};
    ///
    /// let cosine = ScheduleRecipe { name: ScheduleName::Cosine, warmup_epochs: 1.0, ..Default::default() };
    /// let at = |step| cosine.factor(Position { step, steps_per_epoch: 4, end: End::Epochs(5) });
    /// assert_eq!([at(0), at(1), at(3), at(4)], [0.25, 0.5, 1.0, 1.0]);
    /// assert!((at(12) - 0.5).abs() < 1e-12); // half way through the rest
    /// ```
    pub fn factor(&self, position: Position) -> f64 {
        let per_epoch = position.steps_per_epoch.max(1);
        let step = match self.every {
            Every::Step => position.step,
            Every::Epoch => position.step / per_epoch * per_epoch,
        } as f64;
        let steps = position.steps();
        let by_clock = matches!(position.end, End::Clock(_));
        let warmup = self.rising_steps(per_epoch, steps);
        if self.name == ScheduleName::OneCycle {
            return self.one_cycle(step, warmup, steps);
        }
        if step < warmup {
            return ((step + 1.0) / warmup).min(1.0);
        }
        let progress = ((step - warmup) / (steps - warmup).max(1.0)).min(1.0);
        let falling = |hold: f64| ((progress - hold) / (1.0 - hold)).max(0.0);
        let line = |hold: f64| between(self.last, 1.0, 1.0 - falling(hold));
        match self.name {
            ScheduleName::Cosine => {
                let share = f64::midpoint(1.0, (PI * falling(self.hold)).cos());
                between(self.last, 1.0, share)
            }
            ScheduleName::Linear => line(self.hold),
            ScheduleName::Plateau if by_clock => line(self.hold.max(PLATEAU_HOLD)),
            _ => 1.0,
        }
    }

    /// Returns the number of steps in which the learning rate rises to its peak.
    pub(crate) fn rising_steps(&self, steps_per_epoch: u64, steps: f64) -> f64 {
        let longest = LONGEST_WARMUP * steps;
        if self.name == ScheduleName::OneCycle && self.warmup_epochs == 0.0 {
            return longest;
        }
        (self.warmup_epochs * steps_per_epoch as f64).min(longest)
    }

    fn one_cycle(&self, step: f64, rise: f64, steps: f64) -> f64 {
        const FIRST: f64 = 1.0 / 25.0;
        let half_cosine = |share: f64| f64::midpoint(1.0, -(PI * share.min(1.0)).cos());
        if step < rise {
            return between(FIRST, 1.0, half_cosine(step / rise));
        }
        let share = (step - rise) / (steps - rise).max(1.0);
        between(1.0, self.last, half_cosine(share))
    }

    /// Returns the first invalid value, field first.
    pub(crate) fn finding(&self) -> Option<String> {
        let wrong = |field: &str, expected: &str, found: f64| {
            Some(format!(
                "training.schedule.{field}: expected {expected}, found {found}"
            ))
        };
        let warmup = self.warmup_epochs;
        if !(warmup.is_finite() && warmup >= 0.0) {
            return wrong("warmup_epochs", "a number of at least 0", warmup);
        }
        if !(0.0..1.0).contains(&self.hold) {
            return wrong("hold", "at least 0 and below 1", self.hold);
        }
        if !(0.0..=1.0).contains(&self.last) {
            return wrong("last", "0 to 1", self.last);
        }
        None
    }
}

fn between(from: f64, to: f64, share: f64) -> f64 {
    from + (to - from) * share
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(schedule: ScheduleRecipe, epochs: u64) -> Vec<f64> {
        let position = |step| Position {
            step,
            steps_per_epoch: 5,
            end: End::Epochs(epochs),
        };
        (0..5 * epochs)
            .map(|step| schedule.factor(position(step)))
            .collect()
    }

    fn named(name: ScheduleName) -> ScheduleRecipe {
        ScheduleRecipe {
            name,
            ..ScheduleRecipe::default()
        }
    }

    #[test]
    fn constant_schedules_are_constant_after_the_warmup() {
        for name in [ScheduleName::Plateau, ScheduleName::Constant] {
            assert_eq!(factors(named(name), 4), vec![1.0; 20]);
            let warm = ScheduleRecipe {
                warmup_epochs: 0.4,
                ..named(name)
            };
            assert_eq!(factors(warm, 4)[..3], [0.5, 1.0, 1.0]);
        }
    }

    #[test]
    fn decaying_schedules_end_at_the_final_factor() {
        for name in [ScheduleName::Cosine, ScheduleName::Linear] {
            let schedule = ScheduleRecipe {
                hold: 0.5,
                last: 0.1,
                ..named(name)
            };
            let all = factors(schedule, 4);
            assert_eq!(all[..11], [1.0; 11]);
            assert!(all[10..].is_sorted_by(|a, b| a > b), "{all:?}");
            assert!((all[15] - 0.55).abs() < 1e-12, "{all:?}");
            let end = schedule.factor(Position {
                step: 20,
                steps_per_epoch: 5,
                end: End::Epochs(4),
            });
            assert!((end - 0.1).abs() < 1e-12);
        }
    }

    /// The values of `torch.optim.lr_scheduler.OneCycleLR` with `max_lr=1`, `pct_start=0.3` at the
    /// start, the top and the end.
    #[test]
    fn one_cycle_rises_from_a_25th_and_falls() {
        let all = factors(named(ScheduleName::OneCycle), 4);
        assert!((all[0] - 0.04).abs() < 1e-12);
        assert!((all[3] - 0.52).abs() < 1e-12);
        assert!((all[6] - 1.0).abs() < 1e-12);
        assert!((all[13] - 0.5).abs() < 1e-12);
        assert!(all[19] < 0.02);
    }

    /// Returns the factors of a run with a time budget, for a hundred steps of equal duration.
    fn by_clock(schedule: ScheduleRecipe, steps_per_epoch: u64) -> Vec<f64> {
        let position = |step: u64| Position {
            step,
            steps_per_epoch,
            end: End::Clock(step as f64 / 100.0),
        };
        (0..=100)
            .map(|step| schedule.factor(position(step)))
            .collect()
    }

    #[test]
    fn time_based_schedules_equal_step_based_ones() {
        for name in [
            ScheduleName::Cosine,
            ScheduleName::Linear,
            ScheduleName::OneCycle,
        ] {
            let schedule = ScheduleRecipe {
                warmup_epochs: 0.5,
                hold: 0.2,
                last: 0.1,
                ..named(name)
            };
            let expected = (0..=100).map(|step| {
                schedule.factor(Position {
                    step,
                    steps_per_epoch: 20,
                    end: End::Epochs(5),
                })
            });
            for (actual, expected) in by_clock(schedule, 20).into_iter().zip(expected) {
                assert!((actual - expected).abs() < 1e-9, "{name:?}");
            }
        }
    }

    #[test]
    fn time_based_schedules_decay_for_any_budget() {
        for name in [
            ScheduleName::Plateau,
            ScheduleName::Cosine,
            ScheduleName::Linear,
            ScheduleName::OneCycle,
        ] {
            let warm = ScheduleRecipe {
                warmup_epochs: 2.0,
                ..named(name)
            };
            let all = by_clock(warm, 1_000_000);
            assert!(all[28] > 0.9 && all[31] > 0.9, "{name:?} {all:?}");
            assert!(all[100] < 1e-9, "{name:?} {all:?}");
        }
        assert_eq!(by_clock(named(ScheduleName::Constant), 7), vec![1.0; 101]);
    }

    #[test]
    fn per_epoch_factors_are_constant_within_an_epoch() {
        let schedule = ScheduleRecipe {
            every: Every::Epoch,
            ..named(ScheduleName::Linear)
        };
        let all = factors(schedule, 4);
        assert_eq!(all[..5], [1.0; 5]);
        assert_eq!(all[15..], [0.25; 5]);
    }
}
