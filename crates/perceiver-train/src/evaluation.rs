//! Measuring a model on pictures it does not learn from.

use std::path::Path;

use candle_core::{Device, Tensor};
use perceiver_data::{Loader, LoaderConfig, Pictures, Preprocessing, TestSplit};
use perceiver_model::Perceiver;
use serde::{Deserialize, Serialize};

use crate::ahead::ahead;
use crate::error::{Result, TrainError};
use crate::json_file;
use crate::metrics::{MetricSums, wilson_interval};
use crate::predictions::Prediction;
use crate::ranks::{Ranks, Workplace};
use crate::scores::require_finite_scores;
use crate::views::Views;

/// Pictures at a time. The same in every evaluation, so that the same model on the same data gives the same bits.
const BATCH_SIZE: usize = 64;

/// What `results.json` says: the verdict on the test split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestResults {
    /// The data set.
    pub dataset: String,
    /// Its pictures' and labels' hash, by [`Pictures::sha256`]; empty in the results of earlier versions.
    #[serde(default)]
    pub sha256: String,
    /// The number of test pictures.
    pub images: u64,
    /// What they are, if not the data set's own test split.
    #[serde(default, skip_serializing_if = "is_default")]
    pub split: TestSplit,
    /// The number of images that they were drawn from, where a seed has drawn them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// Mean cross-entropy in nats.
    pub loss: f64,
    /// Top-1 accuracy.
    pub acc: f64,
    /// Its 95% interval.
    pub acc_interval_95: [f64; 2],
    /// Top-5 accuracy.
    pub top5_acc: f64,
    /// Its 95% interval.
    pub top5_acc_interval_95: [f64; 2],
}

impl TestResults {
    /// The results that sums over a test split come to.
    pub fn new(test: &Pictures, sums: &MetricSums) -> Self {
        let (means, images) = (sums.means(), sums.samples());
        let (split, of) = test.test_split();
        Self {
            dataset: test.name().to_string(),
            sha256: test.sha256(),
            images,
            split,
            of: of.map(|of| of as u64),
            loss: means.loss,
            acc: means.acc,
            acc_interval_95: wilson_interval(means.acc, images),
            top5_acc: means.top5_acc,
            top5_acc_interval_95: wilson_interval(means.top5_acc, images),
        }
    }

    /// What the images are, in words.
    pub fn split_in_words(&self) -> &'static str {
        match self.split {
            TestSplit::Own => "the test split",
            TestSplit::Validation => "the validation split, as there is no test split",
            TestSplit::HeldOut => "the test split, drawn and kept from training",
            TestSplit::Whole => "the whole data set, as it has no splits",
        }
    }

    /// Reads a `results.json`.
    ///
    /// # Errors
    /// When it is not there or not ours.
    pub fn read(path: &Path) -> Result<Self> {
        json_file::read(path, "the results of a run")
    }

    /// Writes `results.json`, replacing an old one at once or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        json_file::write(path, self)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How a model does on a data set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Summed up.
    pub sums: MetricSums,
    /// Picture by picture, in the data set's order.
    pub predictions: Vec<Prediction>,
}

impl Evaluation {
    /// What the ranks found in their parts of so many pictures, put together.
    fn of_all(self, ranks: &dyn Ranks, images: usize) -> Result<Self> {
        let sums = self.sums.of_all(ranks)?;
        // Everyone has zeros where others have predictions.
        let mut numbers = vec![0.0; images * Prediction::NUMBERS];
        let (rows, _) = numbers.as_chunks_mut();
        for prediction in self.predictions {
            rows[prediction.image] = prediction.to_numbers();
        }
        ranks.all_reduce_f64(&mut numbers)?;
        let rows = numbers.as_chunks().0.iter().copied().enumerate();
        let predictions = rows.map(|(image, row)| Prediction::from_numbers(image, row));
        Ok(Self {
            sums,
            predictions: predictions.collect(),
        })
    }
}

/// Goes through a data set in order and notes how the model does, shown these views of every picture. The ranks share the data set out,
/// and all find what one would. After every batch, `progress` is told how many of how many pictures of this rank's part are done.
///
/// # Errors
/// When there is no picture, a label names no class of the model, what the model says of a picture is no number, or a rank has gone.
pub fn evaluate(
    model: &Perceiver,
    views: Views,
    pictures: &Pictures,
    preprocessing: &Preprocessing,
    place: &Workplace,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Evaluation> {
    let images = pictures.len();
    let mut evaluation = Evaluation::default();
    for_each_batch(model, views, pictures, preprocessing, place, &mut |batch| {
        require_finite_scores(&batch.scores, batch.first)?;
        let predictions = Prediction::of_batch(batch.first, &batch.scores, &batch.labels)?;
        evaluation.predictions.extend(predictions);
        evaluation.sums.update(&batch.scores, &batch.labels)?;
        progress(evaluation.sums.samples(), batch.total);
        Ok(())
    })?;
    evaluation.of_all(&*place.ranks, images)
}

/// [`evaluate`], summed up only.
///
/// # Errors
/// Those of [`evaluate`].
pub(crate) fn measure(
    model: &Perceiver,
    views: Views,
    pictures: &Pictures,
    preprocessing: &Preprocessing,
    place: &Workplace,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<MetricSums> {
    let mut sums = MetricSums::default();
    for_each_batch(model, views, pictures, preprocessing, place, &mut |batch| {
        sums.update(&batch.scores, &batch.labels)?;
        progress(sums.samples(), batch.total);
        Ok(())
    })?;
    sums.of_all(&*place.ranks)
}

/// Some pictures, scored.
struct Scored {
    /// The place of the first in the data set.
    first: usize,
    /// `[n, classes]`, on the CPU.
    scores: Tensor,
    /// u32 `[n]`, on the CPU.
    labels: Tensor,
    /// Pictures in all of this rank's part.
    total: u64,
}

/// Scores the batches that are this rank's part, so that every picture is scored in the batch it always is.
fn for_each_batch(
    model: &Perceiver,
    views: Views,
    pictures: &Pictures,
    preprocessing: &Preprocessing,
    place: &Workplace,
    note: &mut dyn FnMut(Scored) -> Result<()>,
) -> Result<()> {
    require_classes(pictures, model.config().num_classes())?;
    let config = LoaderConfig {
        batch_size: BATCH_SIZE,
        ..LoaderConfig::default()
    };
    let images = pictures.len();
    let loader = Loader::new(pictures.clone(), preprocessing.clone(), config)?;
    let batches = place.ranks.part().range(loader.batches_per_epoch());
    let mut first = batches.start * BATCH_SIZE;
    let total = (images.min(batches.end * BATCH_SIZE).saturating_sub(first)) as u64;
    let all = loader.epoch(0, batches.start).take(batches.len());
    // A GPU is asked for the scores of one batch while it computes those of the next.
    let mut on_device: Option<Scored> = None;
    let mut note = |mut scored: Scored| {
        scored.scores = scored.scores.to_device(&Device::Cpu)?;
        note(scored)
    };
    for batch in ahead(all, &place.device) {
        let batch = batch?;
        let next = Scored {
            first,
            scores: views.scores(model, &batch.images)?,
            labels: batch.labels,
            total,
        };
        first += batch.indices.len();
        on_device.replace(next).map_or(Ok(()), &mut note)?;
    }
    on_device.map_or(Ok(()), note)
}

/// A data set can be judged by a model of as many classes, and has something to judge.
fn require_classes(pictures: &Pictures, classes: usize) -> Result<()> {
    if pictures.classes().len() == classes && !pictures.is_empty() {
        return Ok(());
    }
    Err(TrainError::Data(perceiver_data::DataError::Inconsistent {
        name: pictures.name().to_string(),
        expected: format!("pictures of the model's {classes} classes"),
        found: format!(
            "{} pictures of {} classes",
            pictures.len(),
            pictures.classes().len()
        ),
    }))
}
