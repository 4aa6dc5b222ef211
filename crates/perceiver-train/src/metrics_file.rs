//! The observer that keeps `metrics.jsonl`.

use std::path::{Path, PathBuf};

use perceiver_files::MAX_TABLE_BYTES;

use crate::atomic_file;
use crate::error::{Result, TrainError};
use crate::observer::{EpochMetrics, Event, Observer};

/// Writes one JSON object an epoch. The whole file is replaced every time, so that a run that was killed and resumed has
/// every epoch once, also when it was killed between saving an epoch and writing its line.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
}

impl MetricsFile {
    /// Keeps the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The epochs in the `metrics.jsonl` at `path`.
    ///
    /// # Errors
    /// When it cannot be read, or a line, named by its number, is not an epoch's.
    pub fn read(path: &Path) -> Result<Vec<EpochMetrics>> {
        let expected = "a line of JSON an epoch, as `perceiver train` writes it";
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
                    .map_err(|error| damaged(format!("in line {}: {error}", index + 1)))
            })
            .collect()
    }
}

impl Observer for MetricsFile {
    fn notice(&mut self, event: &Event<'_>) -> Result<()> {
        let (Event::Started { history } | Event::EpochEnded { history, .. }) = event else {
            return Ok(());
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
        atomic_file::write(&self.path, &lines)
    }
}
