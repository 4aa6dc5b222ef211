//! The callback that writes a run's TensorBoard event file.
//!
//! TensorBoard opens an event file once and follows what is appended to it; it does not notice when
//! another file replaces it. So, unlike all other files of a run, this one is appended to, yet it
//! is computed from the whole history every time. If the existing file is a prefix of the computed
//! content, the rest is appended: the normal case after an epoch, and also after a kill in the
//! middle of an append. Otherwise, as when a run goes back to its previous state, the file is
//! replaced, and a TensorBoard that watches it has to be restarted.
//!
//! Event times are the start of the run plus the training seconds of its epochs, so TensorBoard's
//! "relative" time is training time without pauses. The start is read from the file's first record,
//! so it stays the same after a resume.

pub(crate) mod format;
pub(crate) mod histogram_file;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use perceiver_files::MAX_TABLE_BYTES;

use crate::callbacks::tensorboard::format::{
    FILE_VERSION, Summary, SummaryValue, TensorBoardEvent, first, record,
};
use crate::callbacks::{Callback, CallbackResult, Control, EpochMetrics, Event};
use crate::diagnostics::model_stats::{AttentionDiagnosis, Diagnosis};
use crate::error::{Result, TrainError};
use crate::eval::TestResults;
use crate::run::atomic_file;

/// A tag and its value. TensorBoard groups curves by the part of the tag before the first slash.
type Tagged = (String, f64);

/// The writer of the event file: scalars and warnings of every epoch, with the epoch number as
/// step.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
}

impl EventFile {
    /// Creates a writer for the file at `path`. The first write creates its directory.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Makes the file hold these epochs, and the test results at the step of the last epoch.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn write(&self, history: &[EpochMetrics], test: Option<&TestResults>) -> Result<()> {
        let existing = if self.path.exists() {
            atomic_file::read(&self.path, MAX_TABLE_BYTES)?
        } else {
            Vec::new()
        };
        let beginning = match first(&existing) {
            Some(event) if event.file_version.as_deref() == Some(FILE_VERSION) => event.wall_time,
            _ => now() - seconds(history),
        };
        let content = content(beginning, history, test);
        match content.strip_prefix(existing.as_slice()) {
            Some([]) => Ok(()),
            Some(rest) => append(&self.path, rest),
            None => atomic_file::write(&self.path, &content),
        }
    }
}

/// Appends records to the event file at `path`, and creates it and its directory if need be.
fn append(path: &Path, records: &[u8]) -> Result<()> {
    let attempt = || {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(records)?;
        file.sync_all()
    };
    attempt().map_err(|source| TrainError::Io {
        action: "write",
        path: path.to_path_buf(),
        source,
    })
}

impl Callback for EventFile {
    fn on_event(&mut self, event: &Event<'_>) -> CallbackResult {
        if let Event::Started { history } | Event::EpochEnded { history, .. } = event {
            self.write(history, None)?;
        }
        Ok(Control::Continue)
    }
}

/// Returns the seconds since 1970.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

fn seconds(history: &[EpochMetrics]) -> f64 {
    history.iter().map(|epoch| epoch.seconds).sum()
}

/// Computes the whole file of a run that started at `beginning`.
fn content(beginning: f64, history: &[EpochMetrics], test: Option<&TestResults>) -> Vec<u8> {
    let mut content = record(&TensorBoardEvent {
        wall_time: beginning,
        file_version: Some(FILE_VERSION.to_string()),
        ..TensorBoardEvent::default()
    });
    let mut time = beginning;
    for epoch in history {
        time += epoch.seconds;
        content.extend(scalars(time, epoch.epoch, of_epoch(epoch)));
        if !epoch.warnings.is_empty() {
            content.extend(warnings(time, epoch));
        }
    }
    if let Some(test) = test {
        content.extend(scalars(time, history.len(), of_test(test)));
    }
    content
}

fn scalars(wall_time: f64, epoch: usize, values: impl IntoIterator<Item = Tagged>) -> Vec<u8> {
    let value = values.into_iter();
    summary(
        wall_time,
        epoch,
        value.map(|(tag, value)| SummaryValue::scalar(tag, value as f32)),
    )
}

/// Formats the warnings of an epoch as a text event.
fn warnings(wall_time: f64, epoch: &EpochMetrics) -> Vec<u8> {
    let lines = epoch.warnings.iter();
    let lines = lines.map(|warning| format!("step {}: {warning}", warning.step));
    let text = SummaryValue::text("warnings", lines.collect::<Vec<_>>().join("\n\n"));
    summary(wall_time, epoch.epoch, [text])
}

fn summary(
    wall_time: f64,
    epoch: usize,
    values: impl IntoIterator<Item = SummaryValue>,
) -> Vec<u8> {
    record(&TensorBoardEvent {
        wall_time,
        step: i64::try_from(epoch).unwrap_or(i64::MAX),
        summary: Some(Summary {
            value: values.into_iter().collect(),
        }),
        ..TensorBoardEvent::default()
    })
}

fn of_epoch(epoch: &EpochMetrics) -> Vec<Tagged> {
    let EpochMetrics {
        epoch: _,
        loss,
        acc,
        top5_acc,
        val_loss,
        val_acc,
        val_top5_acc,
        learning_rate,
        seconds,
        images_per_second,
        diagnosis,
        warnings: _,
        custom,
    } = epoch;
    let mut values = vec![
        tagged("loss/train", *loss),
        tagged("loss/validation", *val_loss),
        tagged("accuracy/train", *acc),
        tagged("accuracy/validation", *val_acc),
        tagged("top5_accuracy/train", *top5_acc),
        tagged("top5_accuracy/validation", *val_top5_acc),
        tagged("learning_rate", f64::from(*learning_rate)),
        tagged("speed/images_per_second", *images_per_second),
        tagged("speed/seconds", *seconds),
    ];
    if let Some(diagnosis) = diagnosis {
        values.extend(of_diagnosis(diagnosis));
    }
    let custom = custom.iter();
    values.extend(custom.map(|(name, value)| tagged(&format!("custom/{name}"), *value)));
    values
}

fn of_test(test: &TestResults) -> Vec<Tagged> {
    let of_every_version = [
        tagged("loss/test", test.loss),
        tagged("accuracy/test", test.acc),
        tagged("top5_accuracy/test", test.top5_acc),
    ];
    let over_classes = [
        ("balanced_accuracy/test", test.balanced_acc),
        ("macro_f1/test", test.macro_f1),
    ];
    let over_classes = over_classes.into_iter();
    let over_classes = over_classes.filter_map(|(tag, value)| Some(tagged(tag, value?)));
    of_every_version.into_iter().chain(over_classes).collect()
}

fn of_diagnosis(diagnosis: &Diagnosis) -> Vec<Tagged> {
    let Diagnosis { gradients, model } = diagnosis;
    let mut values = vec![
        tagged("gradient_norm/mean", gradients.norm_mean),
        tagged("gradient_norm/max", gradients.norm_max),
        tagged("latents/spread", model.latent_spread),
    ];
    let layers = gradients.layers.iter();
    values.extend(layers.map(|(layer, norm)| (format!("gradient_norm/layer/{layer}"), *norm)));
    for (iteration, attention) in (1..).zip(&model.cross_attentions) {
        let prefix = format!("cross_attention/iteration_{iteration}");
        values.extend(of_attention(&prefix, *attention));
    }
    for (iteration, blocks) in (1..).zip(&model.self_attentions) {
        for (block, attention) in (1..).zip(blocks) {
            let prefix = format!("self_attention/iteration_{iteration}/block_{block}");
            values.extend(of_attention(&prefix, *attention));
        }
    }
    values
}

fn of_attention(prefix: &str, attention: AttentionDiagnosis) -> [Tagged; 3] {
    let AttentionDiagnosis {
        entropy,
        logit_deviation,
        difference,
    } = attention;
    [
        (format!("{prefix}/entropy"), entropy),
        (format!("{prefix}/logit_deviation"), logit_deviation),
        (format!("{prefix}/difference"), difference),
    ]
}

fn tagged(tag: &str, value: f64) -> Tagged {
    (tag.to_string(), value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn epochs(count: usize) -> Vec<EpochMetrics> {
        let epochs = (1..=count).map(|epoch| EpochMetrics {
            epoch,
            loss: 1.0 / epoch as f64,
            acc: 0.5,
            top5_acc: 0.75,
            val_loss: 2.0 / epoch as f64,
            val_acc: 0.25,
            val_top5_acc: 0.5,
            learning_rate: 1e-3,
            seconds: 2.5,
            images_per_second: 100.0,
            diagnosis: None,
            warnings: Vec::new(),
            custom: BTreeMap::new(),
        });
        epochs.collect()
    }

    /// Returns an event file in a temporary directory, which is removed when the first value is
    /// dropped.
    fn file() -> (tempfile::TempDir, EventFile) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tensorboard/events");
        (directory, EventFile::new(path))
    }

    #[test]
    fn truncated_event_files_are_repaired() {
        let (_directory, file) = file();
        file.write(&epochs(2), None).unwrap();
        let two = fs::read(&file.path).unwrap();
        file.write(&epochs(3), None).unwrap();
        let three = fs::read(&file.path).unwrap();
        assert!(three.starts_with(&two) && three.len() > two.len());
        // The first record, which holds the start of the run, is short and written first.
        let header = record(&first(&three).unwrap()).len();
        for length in header..three.len() {
            fs::write(&file.path, &three[..length]).unwrap();
            file.write(&epochs(3), None).unwrap();
            assert!(fs::read(&file.path).unwrap() == three, "cut to {length}");
        }
        fs::write(&file.path, [&three[..], b"more"].concat()).unwrap();
        file.write(&epochs(2), None).unwrap();
        assert!(fs::read(&file.path).unwrap() == two);
        for length in 0..header {
            fs::write(&file.path, &three[..length]).unwrap();
            file.write(&epochs(3), None).unwrap();
            assert_eq!(fs::read(&file.path).unwrap().len(), three.len());
        }
    }

    /// TensorBoard follows the file in this way.
    #[test]
    fn open_readers_see_later_epochs() {
        use std::io::Read;

        let (_directory, file) = file();
        file.write(&[], None).unwrap();
        let mut opened = fs::File::open(&file.path).unwrap();
        for count in 1..4 {
            file.write(&epochs(count), None).unwrap();
        }
        let mut seen = Vec::new();
        opened.read_to_end(&mut seen).unwrap();
        assert!(seen == fs::read(&file.path).unwrap());
    }
}
