//! The callback that writes TensorBoard's histograms of weights and gradients.
//!
//! Unlike the scalars, they are in no other file, so the file is appended to, and a resumed run
//! first removes the epochs that it trains again.

use std::path::PathBuf;

use perceiver_files::MAX_TABLE_BYTES;

use crate::callbacks::tensorboard::format::{
    FILE_VERSION, Summary, SummaryValue, TensorBoardEvent, record, split_first,
};
use crate::callbacks::tensorboard::{append, now, seconds};
use crate::callbacks::{Callback, CallbackResult, Control, EpochMetrics, Event};
use crate::diagnostics::histogram::Histogram;
use crate::error::Result;
use crate::run::atomic_file;

/// The size of the file from which on no more histograms are written.
const MOST_BYTES: u64 = 64 << 20;

/// The writer of the event file of histograms, for a run that records them
/// ([`Trainer::record_histograms`](crate::Trainer::record_histograms)).
///
/// The file has at most 64 MiB: an epoch takes about 1 KB for each tensor.
#[derive(Debug)]
pub struct HistogramFile {
    path: PathBuf,
    /// The start of the run, in seconds since 1970.
    beginning: f64,
    /// The training seconds up to the last epoch.
    seconds: f64,
    bytes: u64,
    most_bytes: u64,
}

impl HistogramFile {
    /// Creates a writer for the file at `path`. The first write creates its directory.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            beginning: now(),
            seconds: 0.0,
            bytes: 0,
            most_bytes: MOST_BYTES,
        }
    }

    /// Keeps the records of epochs in the history; the run trains the others again.
    fn begin(&mut self, history: &[EpochMetrics]) -> Result<()> {
        self.seconds = seconds(history);
        self.beginning = now() - self.seconds;
        let existing = if self.path.exists() {
            atomic_file::read(&self.path, MAX_TABLE_BYTES)?
        } else {
            Vec::new()
        };
        let mut rest = existing.as_slice();
        let last = i64::try_from(history.len()).unwrap_or(i64::MAX);
        while let Some((event, after)) = split_first(rest) {
            if event.step > last {
                break;
            }
            if event.file_version.is_some() {
                self.beginning = event.wall_time;
            }
            rest = after;
        }
        let kept = existing.len() - rest.len();
        self.bytes = kept as u64;
        if kept == 0 {
            let header = record(&TensorBoardEvent {
                wall_time: self.beginning,
                file_version: Some(FILE_VERSION.to_string()),
                ..TensorBoardEvent::default()
            });
            self.bytes = header.len() as u64;
            if !existing.is_empty() {
                return atomic_file::write(&self.path, &header);
            }
            return append(&self.path, &header);
        }
        if rest.is_empty() {
            return Ok(());
        }
        atomic_file::write(&self.path, &existing[..kept])
    }

    fn write(
        &mut self,
        epoch: usize,
        weights: &[(String, Histogram)],
        gradients: &[(String, Histogram)],
    ) -> Result<()> {
        let tagged = |group: &'static str| {
            move |(name, histogram): &(String, Histogram)| {
                SummaryValue::histogram(format!("{group}/{name}"), histogram)
            }
        };
        let weights = weights.iter().map(tagged("weights"));
        let gradients = gradients.iter().map(tagged("gradients"));
        let record = record(&TensorBoardEvent {
            wall_time: self.beginning + self.seconds,
            step: i64::try_from(epoch).unwrap_or(i64::MAX),
            summary: Some(Summary {
                value: weights.chain(gradients).collect(),
            }),
            ..TensorBoardEvent::default()
        });
        let bytes = record.len() as u64;
        if self.bytes.saturating_add(bytes) > self.most_bytes {
            if self.most_bytes > 0 {
                tracing::warn!(
                    "{}: no histograms from epoch {epoch} on, as the file would have more than {} MB; a larger --histograms N \
                     records fewer epochs",
                    self.path.display(),
                    self.most_bytes / 1_000_000
                );
            }
            self.most_bytes = 0; // said once, and nothing later is smaller
            return Ok(());
        }
        append(&self.path, &record)?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Callback for HistogramFile {
    fn on_event(&mut self, event: &Event<'_>) -> CallbackResult {
        match *event {
            Event::Started { history } => self.begin(history)?,
            Event::EpochEnded { history, .. } => self.seconds = seconds(history),
            Event::Histograms {
                epoch,
                weights,
                gradients,
            } => self.write(epoch, weights, gradients)?,
            _ => {}
        }
        Ok(Control::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histograms(count: usize) -> Vec<(String, Histogram)> {
        let histogram = Histogram::of_values(&[1.0, 2.0, 2.0, 4.0]);
        (0..count)
            .map(|index| (format!("layer/{index}"), histogram.clone()))
            .collect()
    }

    fn steps(file: &HistogramFile) -> Vec<i64> {
        let bytes = std::fs::read(&file.path).unwrap();
        let mut rest = bytes.as_slice();
        let mut steps = Vec::new();
        while let Some((event, after)) = split_first(rest) {
            steps.push(event.step);
            rest = after;
        }
        assert!(rest.is_empty());
        steps
    }

    /// Returns the history of `count` epochs.
    fn history(count: usize) -> Vec<EpochMetrics> {
        let epoch = |epoch| EpochMetrics {
            epoch,
            loss: 1.0,
            acc: 0.5,
            top5_acc: 0.5,
            val_loss: 1.0,
            val_acc: 0.5,
            val_top5_acc: 0.5,
            learning_rate: 1e-3,
            seconds: 2.0,
            images_per_second: 10.0,
            diagnosis: None,
            warnings: Vec::new(),
            custom: std::collections::BTreeMap::new(),
        };
        (1..=count).map(epoch).collect()
    }

    #[test]
    fn resumed_runs_have_every_epoch_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("histograms/events");
        let mut file = HistogramFile::new(&path);
        file.begin(&[]).unwrap();
        for epoch in 1..=3 {
            file.write(epoch, &histograms(2), &histograms(1)).unwrap();
        }
        assert_eq!(steps(&file), [0, 1, 2, 3]);
        // The last record is cut off, and the state is that of the first epoch.
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        let mut again = HistogramFile::new(&path);
        again.begin(&history(1)).unwrap();
        assert_eq!(steps(&again), [0, 1]);
        assert_eq!(again.beginning.to_bits(), file.beginning.to_bits());
        again.write(2, &histograms(2), &[]).unwrap();
        assert_eq!(steps(&again), [0, 1, 2]);
        std::fs::write(&path, "something else").unwrap();
        again.begin(&[]).unwrap();
        assert_eq!(steps(&again), [0]);
    }

    #[test]
    fn the_size_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = HistogramFile::new(directory.path().join("events"));
        file.begin(&[]).unwrap();
        file.most_bytes = 4000;
        for epoch in 1..=20 {
            file.write(epoch, &histograms(2), &[]).unwrap();
        }
        let bytes = std::fs::metadata(&file.path).unwrap().len();
        assert!((2000..=4000).contains(&bytes), "{bytes}");
    }
}
