//! The observer that keeps `metrics.csv`: `metrics.jsonl` as a table, for spreadsheets and data frames.

use std::path::{Path, PathBuf};

use crate::atomic_file;
use crate::error::{Result, TrainError};
use crate::observer::{EpochMetrics, Event, Observer};

/// Writes a line of numbers an epoch under a line of names. What was measured inside the model, which differs from model to
/// model, and warnings are left to `metrics.jsonl`. As there, the whole file is replaced every time.
#[derive(Debug)]
pub struct MetricsCsv {
    path: PathBuf,
}

impl MetricsCsv {
    /// Keeps the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl Observer for MetricsCsv {
    fn notice(&mut self, event: &Event<'_>) -> Result<()> {
        match event {
            Event::Started { history } | Event::EpochEnded { history, .. } => {
                atomic_file::write(&self.path, &table(&self.path, history)?)
            }
            _ => Ok(()),
        }
    }
}

/// The table of `history`, to be written to `path`.
fn table(path: &Path, history: &[EpochMetrics]) -> Result<Vec<u8>> {
    let failed = |error: String| TrainError::Io {
        action: "write",
        path: path.to_path_buf(),
        source: std::io::Error::other(error),
    };
    let mut writer = csv::Writer::from_writer(Vec::new());
    for epoch in history {
        let numbers = EpochMetrics {
            diagnosis: None,
            warnings: Vec::new(),
            ..epoch.clone()
        };
        writer
            .serialize(numbers)
            .map_err(|error| failed(error.to_string()))?;
    }
    writer
        .into_inner()
        .map_err(|error| failed(error.to_string()))
}
