//! The callback that writes `metrics.csv`: the rows of `metrics.jsonl` as a table.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::callbacks::{Callback, CallbackResult, Control, EpochMetrics, Event};
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

    /// Makes the file hold these epochs.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, history: &[EpochMetrics]) -> Result<()> {
        atomic_file::write(&self.path, &table(&self.path, history)?)
    }
}

impl Callback for MetricsCsv {
    fn on_event(&mut self, event: &Event<'_>) -> CallbackResult {
        if let Event::Started { history } | Event::EpochEnded { history, .. } = event {
            self.write(history)?;
        }
        Ok(Control::Continue)
    }
}

/// The columns, in the order of [`numbers`]; metrics of callbacks follow.
const COLUMNS: [&str; 10] = [
    "epoch",
    "loss",
    "acc",
    "top5_acc",
    "val_loss",
    "val_acc",
    "val_top5_acc",
    "learning_rate",
    "seconds",
    "images_per_second",
];

/// Formats the numbers of an epoch.
fn numbers(epoch: &EpochMetrics) -> [String; COLUMNS.len()] {
    let EpochMetrics {
        epoch,
        loss,
        acc,
        top5_acc,
        val_loss,
        val_acc,
        val_top5_acc,
        learning_rate,
        seconds,
        images_per_second,
        diagnosis: _,
        warnings: _,
        custom: _,
    } = epoch;
    [
        epoch.to_string(),
        json(loss),
        json(acc),
        json(top5_acc),
        json(val_loss),
        json(val_acc),
        json(val_top5_acc),
        json(learning_rate),
        json(seconds),
        json(images_per_second),
    ]
}

/// Formats a number as `metrics.jsonl` has it.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Formats `history` as CSV; `path` is for error messages.
fn table(path: &Path, history: &[EpochMetrics]) -> Result<Vec<u8>> {
    let failed = |error: String| TrainError::Io {
        action: "write",
        path: path.to_path_buf(),
        source: std::io::Error::other(error),
    };
    let custom: BTreeSet<&String> = history
        .iter()
        .flat_map(|epoch| epoch.custom.keys())
        .collect();
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut write = |row: Vec<String>| {
        let written = writer.write_record(row);
        written.map_err(|error| failed(error.to_string()))
    };
    if !history.is_empty() {
        let columns = COLUMNS.iter().map(ToString::to_string);
        write(
            columns
                .chain(custom.iter().map(ToString::to_string))
                .collect(),
        )?;
    }
    for epoch in history {
        let own = custom.iter().map(|name| {
            let value = epoch.custom.get(*name);
            value.map(json).unwrap_or_default()
        });
        write(numbers(epoch).into_iter().chain(own).collect())?;
    }
    writer
        .into_inner()
        .map_err(|error| failed(error.to_string()))
}
