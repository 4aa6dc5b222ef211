//! Follows a run through the files of its directory, while another process trains it or after that.
//! Nothing is written, and the run does not notice.

use std::path::Path;
use std::time::SystemTime;

use perceiver_train::{RunDirectory, RunPhase, RunProgress, shell_quoted};

use crate::error::Result;
use crate::run::Run;
use crate::text::{counted, exact_percent, grouped, percent, time};

/// What is known of a run at a moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The files of the run.
    pub run: Run,
    /// Whether the run is being trained.
    pub state: RunState,
    /// Where the run is, while it is trained or tested.
    pub progress: Option<RunProgress>,
    /// Whether the run has a `report.html`.
    pub has_report: bool,
    /// The error of the last attempt to read the run, if it failed; `run` is then older.
    pub problem: Option<String>,
}

/// Whether a run is being trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// A process trains or tests it.
    Running,
    /// No process trains it, and it has no test results.
    Stopped,
    /// It has test results.
    Finished,
}

/// What has changed since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Nothing.
    Nothing,
    /// The position of the run.
    Progress,
    /// Its files: an epoch, steps, results.
    Run,
}

/// The time and size of a file; none if it is missing.
type Stamp = Option<(SystemTime, u64)>;

/// Follows a run.
#[derive(Debug)]
pub struct RunWatch {
    directory: RunDirectory,
    stamps: Vec<Stamp>,
    snapshot: Snapshot,
}

impl RunWatch {
    /// Reads a run for the first time.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub fn open(directory: RunDirectory) -> Result<Self> {
        let stamps = stamps(&directory);
        let run = Run::read(&directory)?;
        let progress = RunProgress::read(directory.progress()).ok();
        let snapshot = Snapshot {
            state: state(&directory, &run),
            has_report: directory.report().exists(),
            problem: None,
            progress,
            run,
        };
        Ok(Self {
            directory,
            stamps,
            snapshot,
        })
    }

    /// Returns what is known of the run.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Looks for changes. A file that cannot be read, as while several are being replaced, is tried
    /// again at the next look.
    pub fn poll(&mut self) -> Change {
        let mut change = Change::Nothing;
        let stamps = stamps(&self.directory);
        if stamps != self.stamps {
            match Run::read(&self.directory) {
                Ok(run) => {
                    self.stamps = stamps;
                    self.snapshot.run = run;
                    self.snapshot.problem = None;
                    change = Change::Run;
                }
                Err(error) => {
                    let problem = Some(error.to_string());
                    if self.snapshot.problem != problem {
                        self.snapshot.problem = problem;
                        change = Change::Run;
                    }
                }
            }
        }
        let has_report = self.directory.report().exists();
        let state = state(&self.directory, &self.snapshot.run);
        if (has_report, state) != (self.snapshot.has_report, self.snapshot.state) {
            (self.snapshot.has_report, self.snapshot.state) = (has_report, state);
            change = Change::Run;
        }
        let progress = RunProgress::read(self.directory.progress()).ok();
        if progress != self.snapshot.progress {
            self.snapshot.progress = progress;
            change = change.max(Change::Progress);
        }
        change
    }
}

fn stamps(directory: &RunDirectory) -> Vec<Stamp> {
    let files = [
        directory.config(),
        directory.recipe(),
        directory.metrics(),
        directory.steps(),
        directory.environment(),
        directory.results(),
        directory.predictions(),
    ];
    files.iter().map(|path| stamp(path)).collect()
}

fn stamp(path: &Path) -> Stamp {
    let metadata = path.metadata().ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn state(directory: &RunDirectory, run: &Run) -> RunState {
    if run.results.is_some() {
        return RunState::Finished;
    }
    if directory.is_written() || directory.writer_elsewhere().is_some() {
        return RunState::Running;
    }
    RunState::Stopped
}

impl Snapshot {
    /// Returns the position of a run that is being trained.
    pub fn running(&self) -> Option<&RunProgress> {
        let is_running = self.state == RunState::Running;
        self.progress.as_ref().filter(|_| is_running)
    }

    /// Names what the run does, in a word or two.
    pub fn label(&self) -> &'static str {
        match (self.state, self.progress.as_ref().map(|now| now.phase)) {
            (RunState::Finished, _) => "Finished",
            (RunState::Stopped, _) => "Not running",
            (_, Some(RunPhase::Training)) => "Training",
            (_, Some(RunPhase::Validation)) => "Validating",
            (_, Some(RunPhase::Test)) => "Testing",
            (_, None) => "Running",
        }
    }

    /// Describes where the run is, in one line.
    pub fn position(&self) -> String {
        let run = &self.run;
        if let Some(results) = &run.results {
            let accuracy = exact_percent(results.acc);
            return format!(
                "{}, test accuracy {accuracy}",
                counted(run.epochs.len(), "epoch")
            );
        }
        let Some(now) = self.running() else {
            let epochs = counted(run.epochs.len(), "epoch");
            return match self.state {
                RunState::Running => format!("{epochs} done; reading data, saving or waiting"),
                _ => format!(
                    "{epochs} done; resume with: perceiver train --resume {}",
                    shell_quoted(&run.root)
                ),
            };
        };
        let epoch = match now.epochs {
            Some(epochs) => format!("epoch {} of {}", now.epoch, grouped(epochs)),
            None => format!("epoch {}", now.epoch),
        };
        let [done, total] = [now.done, now.total].map(|count| grouped(count as usize));
        match now.phase {
            RunPhase::Training => format!("{epoch}, step {done} of {total}"),
            RunPhase::Validation => format!("{epoch}, {done} of {total} images"),
            RunPhase::Test => format!("{done} of {total} images"),
        }
    }

    /// Lists the measurements of the epoch that is being trained: name and value.
    pub fn measurements(&self) -> Vec<(&'static str, String)> {
        let Some(now) = self.running() else {
            return Vec::new();
        };
        let seconds = |seconds: Option<f64>| seconds.map(time);
        let all = [
            ("loss", now.loss.map(|loss| format!("{loss:.4}"))),
            ("accuracy", now.acc.map(percent)),
            (
                "speed",
                now.images_per_second
                    .map(|rate| format!("{} images/s", grouped(rate.round() as usize))),
            ),
            ("epoch ETA", seconds(now.epoch_seconds_left)),
            ("total ETA", seconds(now.seconds_left)),
            (
                "peak memory",
                now.peak_memory_bytes
                    .map(|bytes| format!("{} MB", grouped((bytes / 1_000_000) as usize))),
            ),
        ];
        let known = all.into_iter();
        known
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }

    /// Returns the share of the run that is done, if it is known.
    pub fn share(&self) -> Option<f64> {
        match self.state {
            RunState::Finished => Some(1.0),
            _ => self.running()?.share(),
        }
    }
}
