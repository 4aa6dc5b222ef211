//! Messages and progress of a task for people.

use std::io::{IsTerminal, stderr};
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};
use perceiver_cli::terminal;

/// A receiver of messages and progress.
pub trait Progress: Send + Sync {
    /// Reports a message of one line.
    fn message(&self, line: &str);
    /// Reports that `done` of `total` bytes have arrived.
    fn progress(&self, done: u64, total: u64);
}

/// A callback that ignores everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn message(&self, _: &str) {}
    fn progress(&self, _: u64, _: u64) {}
}

/// A callback that writes to standard error: a bar on a terminal, else a line per tenth.
#[derive(Debug, Default)]
pub struct Terminal {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bar: Option<ProgressBar>,
    tenth: Option<u64>,
}

impl Progress for Terminal {
    fn message(&self, line: &str) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.bar {
            Some(bar) => bar.suspend(|| terminal::print_stderr(line)),
            None => terminal::print_stderr(line),
        }
    }

    fn progress(&self, done: u64, total: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if stderr().is_terminal() {
            let bar = state.bar.get_or_insert_with(|| bar(total));
            bar.set_length(total);
            bar.set_position(done);
            if done >= total {
                bar.finish_and_clear();
                state.bar = None;
            }
            return;
        }
        let tenth = done * 10 / total.max(1);
        if state.tenth != Some(tenth) {
            state.tenth = Some(tenth);
            let megabytes = total as f64 / 1e6;
            terminal::print_stderr(format_args!("{:3} % of {megabytes:.1} MB", tenth * 10));
        }
    }
}

fn bar(total: u64) -> ProgressBar {
    let template = "{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}
