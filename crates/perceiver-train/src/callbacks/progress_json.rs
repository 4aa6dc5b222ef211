//! The callback that writes `training/progress.json`: where a run is now, for those who watch it.
//!
//! The file exists only while the run is being trained or tested. It decides nothing: a run without
//! it resumes with the same bits.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::callbacks::{Callback, CallbackResult, Control, EpochMetrics, Event};
use crate::diagnostics::memory::peak_memory_bytes;
use crate::diagnostics::watchdog::warning::Warning;
use crate::error::Result;
use crate::eval::metrics::Metrics;
use crate::run::json_file;

/// The least time between two writes.
const INTERVAL: Duration = Duration::from_secs(1);

/// The time between two writes as a multiple of what a write takes: on a slow disk, they take at
/// most this share of the run.
const SHARE: u32 = 100;

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunPhase {
    /// The steps of an epoch.
    Training,
    /// The validation after an epoch.
    Validation,
    /// The test at the end.
    Test,
}

/// Where a run is now: the content of `training/progress.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunProgress {
    /// What the run is doing.
    pub phase: RunPhase,
    /// The epoch, from 1.
    pub epoch: usize,
    /// The maximum number of epochs; none with a time budget.
    pub epochs: Option<usize>,
    /// The steps done in the epoch, or the images done of the validation or the test.
    pub done: u64,
    /// The number of these steps or images.
    pub total: u64,
    /// The mean training loss of the epoch so far.
    pub loss: Option<f64>,
    /// The mean training accuracy of the epoch so far.
    pub acc: Option<f64>,
    /// The training throughput of the epoch so far.
    pub images_per_second: Option<f64>,
    /// The time left for the steps of the epoch, in seconds.
    pub epoch_seconds_left: Option<f64>,
    /// The time left for the run, in seconds.
    pub seconds_left: Option<f64>,
    /// The peak memory of the process, in bytes, if the system reports it.
    pub peak_memory_bytes: Option<u64>,
    /// The watchdog's warnings of the epoch so far.
    pub warnings: Vec<Warning>,
}

impl RunProgress {
    /// Reads the `progress.json` at `path`.
    ///
    /// # Errors
    /// When the file cannot be read, or is none.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        json_file::read(path.as_ref(), "the progress of a run")
    }

    /// Returns the share of the run that is done, if its length is known.
    pub fn share(&self) -> Option<f64> {
        let of_phase = self.done as f64 / self.total.max(1) as f64;
        let of_epoch = match self.phase {
            RunPhase::Training => of_phase,
            RunPhase::Validation | RunPhase::Test => 1.0,
        };
        let before = self.epoch.saturating_sub(1) as f64;
        self.epochs
            .map(|epochs| ((before + of_epoch) / epochs.max(1) as f64).min(1.0))
    }
}

/// The writer of `training/progress.json`: about once a second, and less often on a slow disk.
/// Dropping it removes the file. Failed writes end its work, not the run.
#[derive(Debug)]
pub struct ProgressFile {
    path: PathBuf,
    /// The end of the time budget.
    deadline: Option<Instant>,
    progress: RunProgress,
    /// The start of the epoch's steps, and the steps that were done before.
    started: Instant,
    first_step: u64,
    images: usize,
    epoch_seconds: Option<f64>,
    next: Option<Instant>,
    is_written: bool,
}

impl ProgressFile {
    /// Creates a writer for the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let now = Instant::now();
        Self {
            path: path.into(),
            deadline: None,
            progress: RunProgress {
                phase: RunPhase::Training,
                epoch: 0,
                epochs: None,
                done: 0,
                total: 0,
                loss: None,
                acc: None,
                images_per_second: None,
                epoch_seconds_left: None,
                seconds_left: None,
                peak_memory_bytes: None,
                warnings: Vec::new(),
            },
            started: now,
            first_step: 0,
            images: 0,
            epoch_seconds: None,
            next: Some(now),
            is_written: false,
        }
    }

    /// Sets the end of the run's time budget, for the time left.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Option<Instant>) -> Self {
        self.deadline = deadline;
        self
    }

    fn step(&mut self, step: u64, images: usize, metrics: &Metrics) {
        self.images += images;
        let seconds = self.started.elapsed().as_secs_f64().max(1e-9);
        let steps = step.saturating_sub(self.first_step).max(1) as f64;
        let left = self.progress.total.saturating_sub(step) as f64 * seconds / steps;
        let epoch = self.progress.total as f64 * seconds / steps;
        let later = self.progress.epochs.map(|epochs| {
            let epochs = epochs.saturating_sub(self.progress.epoch) as f64;
            left + epochs * self.epoch_seconds.unwrap_or(epoch)
        });
        self.progress = RunProgress {
            phase: RunPhase::Training,
            done: step,
            loss: Some(metrics.loss),
            acc: Some(metrics.acc),
            images_per_second: Some(self.images as f64 / seconds),
            epoch_seconds_left: Some(left),
            seconds_left: later,
            ..self.progress.clone()
        };
    }

    fn phase(&mut self, phase: RunPhase, done: u64, total: u64) {
        self.progress.phase = phase;
        (self.progress.done, self.progress.total) = (done, total);
        self.progress.epoch_seconds_left = None;
    }

    fn ended(&mut self, last: Option<&EpochMetrics>) {
        self.epoch_seconds = last.map(|last| last.seconds).or(self.epoch_seconds);
        self.progress.warnings.clear(); // they are in the metrics
    }

    /// Writes the file if it is due.
    fn write(&mut self) {
        let now = Instant::now();
        if self.next.is_none_or(|next| now < next) {
            return;
        }
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(now);
            self.progress.seconds_left = Some(left.as_secs_f64());
        }
        self.progress.peak_memory_bytes = peak_memory_bytes();
        self.is_written = true;
        match json_file::write(&self.path, &self.progress) {
            Ok(()) => self.next = Some(Instant::now() + INTERVAL.max(SHARE * now.elapsed())),
            Err(error) => {
                tracing::debug!("the progress is not shown to those who watch the run: {error}");
                self.next = None;
            }
        }
    }
}

impl Callback for ProgressFile {
    fn on_event(&mut self, event: &Event<'_>) -> CallbackResult {
        match *event {
            Event::Started { history } => {
                self.ended(history.last());
                self.progress.epoch = history.len();
                return Ok(Control::Continue); // no position yet
            }
            Event::EpochStarted {
                epoch,
                epochs,
                first_step,
                steps,
            } => {
                (self.progress.epoch, self.progress.epochs) = (epoch, epochs);
                (self.started, self.images) = (Instant::now(), 0);
                self.first_step = first_step as u64;
                self.progress.warnings.clear();
                self.phase(RunPhase::Training, first_step as u64, steps as u64);
            }
            Event::Step {
                step,
                images,
                metrics,
            } => self.step(step as u64, images, &metrics),
            Event::Warning(warning) if self.progress.phase == RunPhase::Training => {
                self.progress.warnings.push(warning.clone());
            }
            Event::Validation { done, total } => self.phase(RunPhase::Validation, done, total),
            Event::Test { done, total } => {
                self.progress.seconds_left = None;
                self.phase(RunPhase::Test, done, total);
            }
            Event::EpochEnded { history, .. } => self.ended(history.last()),
            _ => return Ok(Control::Continue),
        }
        self.write();
        Ok(Control::Continue)
    }
}

impl Drop for ProgressFile {
    fn drop(&mut self) {
        if self.is_written {
            let _ = std::fs::remove_file(&self.path); // the next writer of the run removes it
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics {
            loss: 0.5,
            acc: 0.75,
            top5_acc: 1.0,
        }
    }

    /// A writer in a temporary directory that is always due.
    fn file() -> (tempfile::TempDir, ProgressFile) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("progress.json");
        (directory, ProgressFile::new(path))
    }

    fn show(file: &mut ProgressFile, event: &Event<'_>) {
        file.next = Some(Instant::now());
        file.on_event(event).unwrap();
    }

    #[test]
    fn the_file_says_where_the_run_is_and_goes_with_its_writer() {
        let (_directory, mut file) = file();
        let path = file.path.clone();
        let epoch = Event::EpochStarted {
            epoch: 2,
            epochs: Some(4),
            first_step: 0,
            steps: 10,
        };
        show(&mut file, &epoch);
        let step = Event::Step {
            step: 5,
            images: 40,
            metrics: metrics(),
        };
        show(&mut file, &step);
        let progress = RunProgress::read(&path).unwrap();
        assert_eq!((progress.epoch, progress.done, progress.total), (2, 5, 10));
        assert_eq!(progress.share(), Some(1.5 / 4.0));
        assert!(progress.images_per_second.unwrap() > 0.0);
        let (epoch, run) = (progress.epoch_seconds_left, progress.seconds_left);
        assert!(
            run.unwrap() > 2.0 * epoch.unwrap(),
            "two more epochs follow"
        );
        show(&mut file, &Event::Validation { done: 3, total: 6 });
        let progress = RunProgress::read(&path).unwrap();
        assert_eq!(progress.phase, RunPhase::Validation);
        assert_eq!(progress.share(), Some(0.5));
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn writes_are_rare_and_failures_end_nothing() {
        let (directory, mut file) = file();
        let test = Event::Test { done: 1, total: 2 };
        file.on_event(&test).unwrap();
        let next = file.next.unwrap();
        assert!(next > Instant::now());
        std::fs::remove_file(&file.path).unwrap();
        file.on_event(&test).unwrap();
        assert!(!file.path.exists(), "not due yet");
        drop(directory);
        show(&mut file, &test);
        assert_eq!(file.next, None);
        file.on_event(&test).unwrap();
    }
}
