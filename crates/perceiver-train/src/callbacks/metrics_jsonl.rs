//! The callback that writes `metrics.jsonl`, one line per epoch.

use std::path::{Path, PathBuf};

use perceiver_files::MAX_TABLE_BYTES;

use crate::callbacks::{Callback, CallbackResult, Control, EpochMetrics, Event};
use crate::error::{Result, TrainError};
use crate::run::atomic_file;

/// The writer of `metrics.jsonl`: one JSON object per epoch.
///
/// Every write replaces the whole file. So a run that was killed and resumed has every epoch
/// exactly once, even if it was killed between saving an epoch and writing its line.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
}

impl MetricsFile {
    /// Creates a writer for the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Reads the epochs of the `metrics.jsonl` at `path`.
    ///
    /// # Errors
    /// When the file cannot be read, or a line (the error gives its number) is not that of an
    /// epoch.
    pub fn read(path: impl AsRef<Path>) -> Result<Vec<EpochMetrics>> {
        let path = path.as_ref();
        let expected = "one line of JSON per epoch, as `perceiver train` writes it";
        let damaged = |finding| TrainError::Damaged {
            path: path.to_path_buf(),
            expected: expected.to_string(),
            finding,
        };
        let text = atomic_file::read_text(path, MAX_TABLE_BYTES, expected)?;
        let lines = text.lines().enumerate();
        lines
            .map(|(index, line)| {
                serde_json::from_str(line)
                    .map_err(|error| damaged(format!("line {}: {error}", index + 1)))
            })
            .collect()
    }
}

impl Callback for MetricsFile {
    fn on_event(&mut self, event: &Event<'_>) -> CallbackResult {
        let (Event::Started { history } | Event::EpochEnded { history, .. }) = event else {
            return Ok(Control::Continue);
        };
        let mut lines = Vec::new();
        for epoch in *history {
            serde_json::to_writer(&mut lines, epoch).map_err(|error| TrainError::Io {
                action: "write",
                path: self.path.clone(),
                source: error.into(),
            })?;
            lines.push(b'\n');
        }
        atomic_file::write(&self.path, &lines)?;
        Ok(Control::Continue)
    }
}
