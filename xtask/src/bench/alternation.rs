//! Measures several processes in turns: all are alive, one at a time is awake.
//!
//! The speed of a machine that others share changes within seconds, so processes that run one after
//! another do not meet the same machine. Here every process is stopped (SIGSTOP) except one, which
//! is continued (SIGCONT) for a slice of a few seconds. A cycle has one slice of every process, in
//! random order, and only figures of the same cycle are compared.
//!
//! A process announces each step with a line of its output, `step N` for a step of `N` images.

#[cfg(unix)]
mod in_turns;
#[cfg(unix)]
mod process_group;
#[cfg(all(test, unix))]
mod tests;
#[cfg_attr(not(unix), allow(dead_code))]
mod turns;

use std::time::Duration;

use perceiver_ops::RngKey;

pub use self::turns::{Stint, Turn};

/// The options of a measurement in turns.
#[derive(Clone, Copy, Debug)]
pub struct Alternation {
    /// The time that a process is awake per cycle.
    pub slice: Duration,
    /// The number of cycles; every process has one slice per cycle.
    pub cycles: usize,
    /// The number of steps that a process makes before its first slice.
    pub warm_up: usize,
    /// The seed of the order of the processes in every cycle.
    pub seed: u64,
}

impl Alternation {
    /// Returns the order of `count` processes in a cycle.
    #[cfg_attr(not(unix), allow(dead_code))]
    fn order(&self, cycle: usize, count: usize) -> Vec<usize> {
        let key = RngKey::new(self.seed).fold_in(cycle as u64);
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|&index| key.bits(index as u64));
        order
    }
}
