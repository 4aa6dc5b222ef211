//! The callback that writes `metrics.csv`: the rows of `metrics.jsonl` as a table.

use std::path::{Path, PathBuf};

use crate::callbacks::{Callback, EpochMetrics, Event};
use crate::error::{Result, TrainError};
use crate::run::atomic_file;

/// The writer of `metrics.csv`: a header line, then one row of numbers per epoch.
///
/// Model statistics, which differ from model to model, and warnings are in `metrics.jsonl` only. As
/// there, every write replaces the whole file.
#[derive(Debug)]
pub struct MetricsCsv {
    path: PathBuf,
}

impl MetricsCsv {
    /// Creates a writer for the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl Callback for MetricsCsv {
    fn notice(&mut self, event: &Event<'_>) -> Result<()> {
        match event {
            Event::Started { history } | Event::EpochEnded { history, .. } => {
                atomic_file::write(&self.path, &table(&self.path, history)?)
            }
            _ => Ok(()),
        }
    }
}

/// Formats `history` as CSV; `path` is for error messages.
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
