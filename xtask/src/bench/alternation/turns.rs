//! The steps of a process by its slices. A step that a stop divides counts in the slice in which it
//! ends, with its time in both.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::bench::worker::Sample;

/// A time in which a process was awake.
pub(super) type Slice = Range<Instant>;

/// A step, as its line arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// When the line arrived.
    pub(super) at: Instant,
    /// The work of the step, in images or multiply-adds.
    pub(super) amount: f64,
}

/// The steps that a process ended in one slice.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Turn {
    /// The number of steps.
    pub steps: usize,
    /// The work of these steps, in images or multiply-adds.
    pub amount: f64,
    /// The time that the process was awake for these steps, in seconds.
    pub seconds: f64,
}

impl Turn {
    /// Returns the work per second; `None` without a step.
    pub fn per_second(&self) -> Option<f64> {
        (self.steps > 0).then(|| self.amount / self.seconds)
    }
}

/// All that one process did.
#[derive(Clone, Debug, PartialEq)]
pub struct Stint {
    /// The steps of every slice, in order.
    pub turns: Vec<Turn>,
    /// The time awake, without the warm-up.
    pub awake: Duration,
    /// The peak memory of the process; `None` if the system does not report it.
    pub peak_rss_bytes: Option<u64>,
}

impl Stint {
    /// Returns the number of steps.
    pub fn steps(&self) -> usize {
        self.turns.iter().map(|turn| turn.steps).sum()
    }

    /// Returns one sample per slice, as from a process that timed itself: the mean step of the
    /// slice. It has no repetition if the slice has no step.
    pub fn samples(&self) -> Vec<Sample> {
        let sample = |turn: &Turn| {
            let steps = turn.steps as f64;
            Sample {
                amount: turn.amount / steps,
                seconds: (turn.steps > 0)
                    .then(|| turn.seconds / steps)
                    .into_iter()
                    .collect(),
                peak_rss_bytes: self.peak_rss_bytes,
                peak_device_bytes: None,
            }
        };
        self.turns.iter().map(sample).collect()
    }
}

/// Assigns steps to slices, the first of which is the warm-up: it is not returned, but its last
/// step is where the first counted step begins.
pub(super) fn of_steps(slices: &[Slice], steps: &[Step]) -> Vec<Turn> {
    let mut turns = vec![Turn::default(); slices.len()];
    let mut last = Duration::ZERO;
    for step in steps {
        let (slice, awake) = awake_at(slices, step.at);
        let turn = &mut turns[slice];
        turn.steps += 1;
        turn.amount += step.amount;
        turn.seconds += awake.saturating_sub(last).as_secs_f64();
        last = awake;
    }
    turns.split_off(1)
}

/// Returns the slice of a line and the time awake until it was printed. A line that arrives after
/// its process was stopped was printed before the stop.
fn awake_at(slices: &[Slice], at: Instant) -> (usize, Duration) {
    let index = slices
        .partition_point(|slice| slice.start <= at)
        .saturating_sub(1);
    let length = |slice: &Slice| slice.end - slice.start;
    let before: Duration = slices[..index].iter().map(length).sum();
    let slice = &slices[index];
    let within = at.min(slice.end).saturating_duration_since(slice.start);
    (index, before + within)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the turns of slices and steps given in milliseconds.
    fn turns(slices: &[Range<u64>], steps: &[u64]) -> Vec<Turn> {
        let zero = Instant::now();
        let at = |milliseconds| zero + Duration::from_millis(milliseconds);
        let slices: Vec<_> = slices.iter().map(|s| at(s.start)..at(s.end)).collect();
        let step = |&ms: &u64| Step {
            at: at(ms),
            amount: 4.0,
        };
        of_steps(&slices, &steps.iter().map(step).collect::<Vec<_>>())
    }

    fn turn(steps: usize, seconds: f64) -> Turn {
        Turn {
            steps,
            amount: 4.0 * steps as f64,
            seconds,
        }
    }

    #[test]
    fn a_divided_step_counts_where_it_ends_with_its_time_in_both_slices() {
        // Awake for 0..1,000, 5,000..6,000 and 9,000..10,000: a step takes 400 ms awake.
        let slices = [0..1_000, 5_000..6_000, 9_000..10_000];
        let found = turns(&slices, &[400, 800, 5_200, 5_600, 6_000, 9_400, 9_800]);
        let seconds: Vec<_> = found
            .iter()
            .map(|turn| (turn.seconds * 1e3).round())
            .collect();
        assert_eq!(seconds, [1_200.0, 800.0]);
        assert_eq!([found[0].steps, found[1].steps], [3, 2]);
        assert_eq!(found[0].per_second(), Some(4.0 * 3.0 / found[0].seconds));
    }

    #[test]
    fn a_line_that_arrives_late_belongs_to_the_slice_before() {
        let slices = [0..1_000, 2_000..3_000, 4_000..5_000];
        let found = turns(&slices, &[1_000, 3_007, 4_500]);
        assert_eq!(found, [turn(1, 1.0), turn(1, 0.5)]);
    }

    #[test]
    fn a_slice_without_a_step_has_no_speed_and_lends_its_time_to_the_next() {
        let slices = [0..1_000, 2_000..3_000, 4_000..5_000];
        let found = turns(&slices, &[1_000, 4_500]);
        assert_eq!(found, [turn(0, 0.0), turn(1, 1.5)]);
        assert_eq!(found[0].per_second(), None);
        let stint = Stint {
            turns: found,
            awake: Duration::from_secs(2),
            peak_rss_bytes: None,
        };
        assert_eq!(stint.steps(), 1);
        let samples = stint.samples();
        assert_eq!(samples[0].per_second().count(), 0);
        assert_eq!(samples[1].per_second().collect::<Vec<_>>(), [4.0 / 1.5]);
    }
}
