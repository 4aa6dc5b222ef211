//! The measurement: starts the processes one by one, then wakes them in turns.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Alternation;
use super::process_group::ProcessGroup;
use super::turns::{Slice, Stint, of_steps};
use crate::bench::contestant::Contestant;
use crate::error::{Result, XtaskError};
use crate::progress::Progress;

/// How often a waiting measurement looks for Ctrl-C and for processes that have ended.
pub(super) const POLL: Duration = Duration::from_millis(20);

impl Alternation {
    /// Runs all contestants of the contest `name` and returns their steps, in the order of the
    /// contestants. No process is alive afterwards, whatever the outcome.
    ///
    /// # Errors
    /// When a contestant cannot be started, ends, or makes no step while it is awake;
    /// [`XtaskError::Interrupted`] once `interrupted` is set.
    pub fn run(
        &self,
        name: &str,
        contestants: &[Contestant],
        interrupted: &AtomicBool,
        progress: &dyn Progress,
    ) -> Result<Vec<Stint>> {
        let mut processes: Vec<ProcessGroup> = Vec::with_capacity(contestants.len());
        let mut slices: Vec<Vec<Slice>> = Vec::with_capacity(contestants.len());
        for contestant in contestants {
            progress.message(&format!("{name}: {} warms up", contestant.name));
            let start = Instant::now();
            processes.push(ProcessGroup::spawn(contestant)?);
            let newest = processes.len() - 1;
            while processes[newest].steps() < self.warm_up {
                pause(POLL, &mut processes, interrupted)?;
            }
            processes[newest].stop();
            slices.push(vec![start..Instant::now()]);
        }
        for cycle in 0..self.cycles {
            progress.message(&format!("{name}: cycle {} of {}", cycle + 1, self.cycles));
            for index in self.order(cycle, contestants.len()) {
                let start = Instant::now();
                processes[index].resume();
                while let Some(rest) = self.slice.checked_sub(start.elapsed()) {
                    pause(rest.min(POLL), &mut processes, interrupted)?;
                }
                processes[index].stop();
                slices[index].push(start..Instant::now());
            }
        }
        // What was printed before the last stop may still be on its way through the pipes.
        pause(POLL, &mut processes, interrupted)?;
        let stints = processes.iter().zip(&slices);
        stints
            .map(|(process, slices)| self.stint(process, slices))
            .collect()
    }

    /// Returns what a process did in its slices.
    fn stint(&self, process: &ProcessGroup, slices: &[Slice]) -> Result<Stint> {
        let turns = of_steps(slices, &process.step_log());
        if turns.iter().all(|turn| turn.steps == 0) {
            return Err(process.failed(format!(
                "expected a step in {} slices of {:.1} s, found none; use a longer --slice or a \
                 smaller --batch-size",
                self.cycles,
                self.slice.as_secs_f64()
            )));
        }
        Ok(Stint {
            turns,
            awake: slices[1..]
                .iter()
                .map(|slice| slice.end - slice.start)
                .sum(),
            peak_rss_bytes: process.peak_memory_bytes(),
        })
    }
}

/// Sleeps, then checks that no process has ended and nobody has pressed Ctrl-C.
fn pause(
    duration: Duration,
    processes: &mut [ProcessGroup],
    interrupted: &AtomicBool,
) -> Result<()> {
    sleep(duration);
    if interrupted.load(Ordering::Relaxed) {
        return Err(XtaskError::Interrupted);
    }
    processes.iter_mut().try_for_each(ProcessGroup::check)
}
