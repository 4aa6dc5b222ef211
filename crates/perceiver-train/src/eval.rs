//! Evaluation of a model on a data set.

pub(crate) mod batch_metrics;
pub(crate) mod classification_report;
pub(crate) mod confusion_matrix;
pub(crate) mod embeddings;
pub(crate) mod finite_logits;
pub(crate) mod metrics;
pub(crate) mod predictions;
pub(crate) mod predictor;
pub(crate) mod test_time_augmentation;
pub(crate) mod top_classes;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use perceiver_data::{Loader, LoaderConfig, Preprocessing, Samples, TestSplit};
use perceiver_model::Classifier;
use perceiver_ops::softmax;
use serde::{Deserialize, Serialize};

use crate::distributed::{Communicator, Placement};
use crate::error::{Result, TrainError};
use crate::eval::classification_report::ClassificationReport;
use crate::eval::finite_logits::require_finite_scores;
use crate::eval::metrics::{MetricSums, wilson_interval};
use crate::eval::predictions::Prediction;
use crate::eval::test_time_augmentation::TestTimeAugmentation;
use crate::run::json_file;
use crate::step::class_weights::ClassWeights;
use crate::step::prefetch::prefetched;

/// The batch size of an evaluation. It is fixed, so that the same model on the same data gives the
/// same bits.
const BATCH_SIZE: usize = 64;

/// The values of a forward pass, 1 GiB, from which a model gets smaller batches.
const MOST_VALUES: u64 = 1 << 28;

/// Returns the batch size of a model's evaluation: a power of two that depends on the model alone.
pub(crate) fn batch_size(model: &dyn Classifier) -> usize {
    1 << images_within(MOST_VALUES, model, BATCH_SIZE).ilog2()
}

/// Returns how many images take at most `values` values in a forward pass of a model: at least one
/// and at most `most`.
pub(crate) fn images_within(values: u64, model: &dyn Classifier, most: usize) -> usize {
    let fitting = values / model.values_per_image().max(1);
    usize::try_from(fitting).unwrap_or(most).clamp(1, most)
}

/// The content of `results.json`: the test results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestResults {
    /// The data set.
    pub dataset: String,
    /// The hash of its images and labels, by [`Samples::sha256`]; empty in results of earlier
    /// versions.
    #[serde(default)]
    pub sha256: String,
    /// The number of test images.
    pub images: u64,
    /// The origin of the images, if not the data set's own test split.
    #[serde(default, skip_serializing_if = "json_file::is_default")]
    pub split: TestSplit,
    /// The number of images that a seed drew these from, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// Mean cross-entropy in nats.
    pub loss: f64,
    /// Top-1 accuracy.
    pub acc: f64,
    /// The 95% confidence interval of the top-1 accuracy.
    pub acc_interval_95: [f64; 2],
    /// Balanced accuracy: the mean of the accuracies of the classes that have images; none in
    /// results of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balanced_acc: Option<f64>,
    /// Macro F1: the mean F1 of the classes that have images or predictions; none in results of
    /// earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub macro_f1: Option<f64>,
    /// Top-5 accuracy.
    pub top5_acc: f64,
    /// The 95% confidence interval of the top-5 accuracy.
    pub top5_acc_interval_95: [f64; 2],
}

impl TestResults {
    /// Computes the results from the evaluation on a test split.
    pub fn new(test: &Samples, evaluation: &Evaluation) -> Self {
        let Evaluation { sums, predictions } = evaluation;
        let (means, images) = (sums.means(), sums.samples());
        let (split, of) = test.test_split();
        let results = Self {
            dataset: test.name().to_string(),
            sha256: test.sha256(),
            images,
            split,
            of: of.map(|of| of as u64),
            loss: means.loss,
            acc: means.acc,
            acc_interval_95: wilson_interval(means.acc, images),
            balanced_acc: None,
            macro_f1: None,
            top5_acc: means.top5_acc,
            top5_acc_interval_95: wilson_interval(means.top5_acc, images),
        };
        results.with_class_metrics(predictions)
    }

    /// Adds balanced accuracy and macro F1 if they are missing, as in results of earlier versions;
    /// `predictions` are those of the test images.
    #[must_use]
    pub fn with_class_metrics(self, predictions: &[Prediction]) -> Self {
        let report = ClassificationReport::new(predictions);
        let report = report.as_ref();
        let balanced_acc = report.map(|report| report.balanced_accuracy);
        let macro_f1 = report.map(|report| report.macro_average.f1);
        Self {
            balanced_acc: self.balanced_acc.or(balanced_acc),
            macro_f1: self.macro_f1.or(macro_f1),
            ..self
        }
    }

    /// Describes the origin of the images in words.
    pub fn split_description(&self) -> &'static str {
        match self.split {
            TestSplit::Own => "the test split",
            TestSplit::Validation => "the validation split, as there is no test split",
            TestSplit::HeldOut => "the test split, drawn at random and held out from training",
            TestSplit::Whole => "the whole data set, as it has no splits",
        }
    }

    /// Reads a `results.json`.
    ///
    /// # Errors
    /// When it is missing or not ours.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        json_file::read(path.as_ref(), "the test results of a run")
    }

    /// Writes `results.json`, atomically replacing an old one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        json_file::write(path.as_ref(), self)
    }
}

/// The evaluation of a model on a data set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// The metric sums.
    pub sums: MetricSums,
    /// The prediction for every image, in the order of the data set.
    pub predictions: Vec<Prediction>,
}

impl Evaluation {
    /// Combines the evaluations of all ranks, over `images` images in total.
    fn of_all(self, ranks: &dyn Communicator, images: usize) -> Result<Self> {
        let sums = self.sums.of_all(ranks)?;
        // Each rank has zeros where others have predictions.
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

/// Evaluates a model on a data set, in order, with this test-time augmentation. The ranks divide
/// the data set; each gets the same result as a single process. After every batch, `progress`
/// receives the number of images done and the total of this rank's part.
///
/// # Errors
/// When there are no images, a label is not a class of the model, the logits of an image are not
/// finite, or a rank has gone.
pub fn evaluate(
    model: &dyn Classifier,
    views: TestTimeAugmentation,
    samples: &Samples,
    preprocessing: &Preprocessing,
    placement: &Placement,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Evaluation> {
    let mut ignore = |_, _: &[f32]| {};
    evaluate_each(
        model,
        views,
        samples,
        preprocessing,
        placement,
        progress,
        &mut ignore,
    )
}

/// [`evaluate`], which also passes the index of every image of this rank, and the probabilities of
/// all classes, to `each`: for what is not in a [`Prediction`], such as the most probable classes.
///
/// # Errors
/// Those of [`evaluate`].
pub fn evaluate_each(
    model: &dyn Classifier,
    views: TestTimeAugmentation,
    samples: &Samples,
    preprocessing: &Preprocessing,
    placement: &Placement,
    progress: &mut dyn FnMut(u64, u64),
    each: &mut dyn FnMut(usize, &[f32]),
) -> Result<Evaluation> {
    let images = samples.len();
    let mut evaluation = Evaluation::default();
    for_each_batch(
        model,
        views,
        samples,
        preprocessing,
        placement,
        &mut |batch| {
            require_finite_scores(&batch.scores, batch.first)?;
            let probabilities = softmax(&batch.scores.to_dtype(DType::F32)?)?.to_vec2::<f32>()?;
            for (image, probabilities) in (batch.first..).zip(&probabilities) {
                each(image, probabilities);
            }
            let predictions = Prediction::of_batch(batch.first, &probabilities, &batch.labels)?;
            evaluation.predictions.extend(predictions);
            evaluation.sums.update(&batch.scores, &batch.labels)?;
            progress(evaluation.sums.samples(), batch.total);
            Ok(())
        },
    )?;
    evaluation.of_all(&*placement.ranks, images)
}

/// [`evaluate`] with metric sums only, without test-time augmentation; with `weights`, the loss of every image is multiplied by that
/// of its class.
///
/// # Errors
/// Those of [`evaluate`].
pub(crate) fn measure(
    model: &dyn Classifier,
    samples: &Samples,
    preprocessing: &Preprocessing,
    weights: Option<&ClassWeights>,
    placement: &Placement,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<MetricSums> {
    let mut sums = MetricSums::default();
    for_each_batch(
        model,
        TestTimeAugmentation::None,
        samples,
        preprocessing,
        placement,
        &mut |batch| {
            let weights = weights.map(|weights| weights.of_labels(&batch.labels));
            let weights = weights.transpose()?;
            sums.update_weighted(&batch.scores, &batch.labels, weights.as_deref())?;
            progress(sums.samples(), batch.total);
            Ok(())
        },
    )?;
    sums.of_all(&*placement.ranks)
}

/// The logits and labels of a batch.
struct Scored {
    /// The index of the first image in the data set.
    first: usize,
    /// `[n, classes]`, on the CPU.
    scores: Tensor,
    /// u32 `[n]`, on the CPU.
    labels: Tensor,
    /// The number of images in this rank's part.
    total: u64,
}

/// Computes the logits of the batches of this rank. Every image is in the same batch whatever the
/// number of ranks.
fn for_each_batch(
    model: &dyn Classifier,
    views: TestTimeAugmentation,
    samples: &Samples,
    preprocessing: &Preprocessing,
    placement: &Placement,
    note: &mut dyn FnMut(Scored) -> Result<()>,
) -> Result<()> {
    require_classes(samples, model.num_classes())?;
    let batch_size = batch_size(model);
    let config = LoaderConfig {
        batch_size,
        ..LoaderConfig::default()
    };
    let images = samples.len();
    let loader = Loader::new(samples.clone(), preprocessing.clone(), config)?;
    let batches = placement.ranks.part().range(loader.batches_per_epoch());
    let mut first = batches.start * batch_size;
    let total = (images.min(batches.end * batch_size).saturating_sub(first)) as u64;
    let all = loader.epoch(0, batches.start).take(batches.len());
    // On a GPU, the logits of one batch are read while those of the next are computed.
    let mut on_device: Option<Scored> = None;
    let mut note = |mut scored: Scored| {
        scored.scores = scored.scores.to_device(&Device::Cpu)?;
        note(scored)
    };
    for batch in prefetched(all, &placement.device) {
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

/// Checks that the data set has images and as many classes as the model.
fn require_classes(samples: &Samples, classes: usize) -> Result<()> {
    if samples.classes().len() == classes && !samples.is_empty() {
        return Ok(());
    }
    Err(TrainError::Data(perceiver_data::DataError::Inconsistent {
        name: samples.name().to_string(),
        expected: format!("images of the model's {classes} classes"),
        found: format!(
            "{} images of {} classes",
            samples.len(),
            samples.classes().len()
        ),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `results.json` of an earlier version has no metrics over classes; its predictions give
    /// them.
    #[test]
    fn results_of_earlier_versions_get_their_class_metrics_from_the_predictions() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results.json");
        let text = r#"{"dataset": "shapes", "images": 3, "loss": 1.5, "acc": 0.6,
            "acc_interval_95": [0.2, 0.9], "top5_acc": 1.0, "top5_acc_interval_95": [0.4, 1.0]}"#;
        std::fs::write(&path, text).unwrap();
        let results = TestResults::read(&path).unwrap();
        assert_eq!((results.balanced_acc, results.macro_f1), (None, None));
        results.write(&path).unwrap();
        let again = std::fs::read_to_string(&path).unwrap();
        assert!(!again.contains("balanced_acc") && !again.contains("macro_f1"));

        let predictions = [(0, 0), (0, 1), (1, 1)].map(|(label, predicted)| Prediction {
            image: 0,
            label,
            predicted,
            probability: 0.8,
            label_probability: 0.2,
            label_rank: 1,
        });
        let added = results.with_class_metrics(&predictions);
        // Recalls 1/2 and 1; F1 2/3 and 2/3.
        assert_eq!(added.balanced_acc, Some(0.75));
        assert!((added.macro_f1.unwrap() - 2.0 / 3.0).abs() < 1e-12);
        let kept = TestResults {
            balanced_acc: Some(0.5),
            ..added.clone()
        };
        let kept = kept.with_class_metrics(&predictions);
        assert_eq!(kept.balanced_acc, Some(0.5), "nothing is replaced");
        added.write(&path).unwrap();
        assert_eq!(TestResults::read(&path).unwrap(), added);
    }
}
