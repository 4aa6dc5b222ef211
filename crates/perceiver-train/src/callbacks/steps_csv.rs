//! The callback that writes `training/steps.csv`: the loss, learning rate and gradient norm within
//! the epochs.

use std::path::{Path, PathBuf};

use perceiver_files::MAX_TABLE_BYTES;

use crate::callbacks::{Callback, CallbackResult, Control, Event};
use crate::diagnostics::step_history::StepMetrics;
use crate::error::{Result, TrainError};
use crate::run::atomic_file;

/// The writer of `training/steps.csv`: a header line, then one row per point of the step history.
///
/// Every write replaces the whole file, which has at most 2,000 rows.
#[derive(Debug)]
pub struct StepsCsv {
    path: PathBuf,
}

impl StepsCsv {
    /// Creates a writer for the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Makes the file hold these points.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, steps: &[StepMetrics]) -> Result<()> {
        let failed = |finding: String| TrainError::Io {
            action: "write",
            path: self.path.clone(),
            source: std::io::Error::other(finding),
        };
        let mut writer = csv::Writer::from_writer(Vec::new());
        for step in steps {
            let written = writer.serialize(step);
            written.map_err(|error| failed(error.to_string()))?;
        }
        let bytes = writer.into_inner();
        atomic_file::write(
            &self.path,
            &bytes.map_err(|error| failed(error.to_string()))?,
        )
    }

    /// Reads the points of the `steps.csv` at `path`.
    ///
    /// # Errors
    /// When the file cannot be read, or a line (the error gives its number) is not that of a point.
    pub fn read(path: impl AsRef<Path>) -> Result<Vec<StepMetrics>> {
        let path = path.as_ref();
        let bytes = atomic_file::read(path, MAX_TABLE_BYTES)?;
        let mut reader = csv::Reader::from_reader(bytes.as_slice());
        let lines = reader.deserialize::<StepMetrics>();
        let lines: std::result::Result<Vec<_>, csv::Error> = lines.collect();
        lines.map_err(|error| TrainError::Damaged {
            path: path.to_path_buf(),
            expected: "one line per point, as `perceiver train` writes it".to_string(),
            finding: error.to_string(),
        })
    }
}

impl Callback for StepsCsv {
    fn on_event(&mut self, event: &Event<'_>) -> CallbackResult {
        if let Event::StepHistory(steps) = event {
            self.write(steps)?;
        }
        Ok(Control::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_damage_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("steps.csv");
        let steps = [Some(1 << 30), None].map(|peak_memory_bytes| StepMetrics {
            step: 3,
            epoch: 1.0 / 3.0,
            seconds: 2.5,
            loss: 0.1,
            learning_rate: 0.001,
            gradient_norm: 1e-9,
            peak_memory_bytes,
        });
        let file = StepsCsv::new(&path);
        file.write(&steps).unwrap();
        assert_eq!(StepsCsv::read(&path).unwrap(), steps);
        file.write(&[]).unwrap();
        assert_eq!(StepsCsv::read(&path).unwrap(), []);
        std::fs::write(&path, "step,epoch\n1,x\n").unwrap();
        let error = StepsCsv::read(&path).unwrap_err().to_string();
        assert!(
            error.contains("steps.csv") && error.contains("line: 2"),
            "{error}"
        );
    }
}
