//! Precision, recall, F1 and support per class, their averages, balanced accuracy and top-k
//! accuracy, as scikit-learn's `classification_report` defines them.

use std::collections::BTreeMap;

use crate::eval::confusion_matrix::ConfusionMatrix;
use crate::eval::predictions::Prediction;

/// The classification report of predictions.
///
/// A share of nothing is 0, as with scikit-learn's `zero_division=0`: the precision of a class that
/// is never predicted, and the recall of a class without images. The averages are over the classes
/// that have images or predictions, scikit-learn's default; other classes change nothing.
///
/// ```
/// use perceiver_train::{ClassificationReport, Prediction};
///
/// let prediction = |(image, (label, predicted))| Prediction {
///     image,
///     label,
///     predicted,
///     probability: 0.75,
///     label_probability: 0.75,
///     label_rank: if label == predicted { 1 } else { 2 },
/// };
/// let pairs = [(0, 0), (0, 1), (1, 1)].into_iter().enumerate();
/// let predictions: Vec<Prediction> = pairs.map(prediction).collect();
/// let report = ClassificationReport::new(&predictions).expect("there are predictions");
/// assert_eq!(report.class(0).recall, 0.5);
/// assert_eq!(report.class(1).precision, 0.5);
/// assert_eq!(report.balanced_accuracy, 0.75);
/// assert_eq!(report.top_k_accuracy(2), 1.0);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ClassificationReport {
    /// Sorted, so that the sums do not depend on the order of the images.
    classes: BTreeMap<u32, ClassMetrics>,
    /// The mean over classes, in which a rare class counts as much as a common one.
    pub macro_average: ClassAverages,
    /// The mean over classes, weighted by support.
    pub weighted_average: ClassAverages,
    /// Top-1 accuracy: the share of images whose predicted class is the true one.
    pub accuracy: f64,
    /// Balanced accuracy: the mean recall over the classes that have images.
    pub balanced_accuracy: f64,
    /// The ranks of the true classes, ascending.
    label_ranks: Vec<u32>,
}

/// The metrics of a class; by default, those of a class without images and predictions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClassMetrics {
    /// The share of correct ones among the images predicted as this class.
    pub precision: f64,
    /// The share of correct ones among the images of this class: the accuracy on them.
    pub recall: f64,
    /// `2 TP / (2 TP + FP + FN)`, the harmonic mean of precision and recall.
    pub f1: f64,
    /// The number of images of this class.
    pub support: u64,
    /// The number of images predicted as this class.
    pub predicted: u64,
    /// The number of correct predictions of this class (TP).
    pub correct: u64,
}

/// Metrics averaged over classes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClassAverages {
    /// The average precision.
    pub precision: f64,
    /// The average recall.
    pub recall: f64,
    /// The average F1.
    pub f1: f64,
    /// The number of all images.
    pub support: u64,
}

impl ClassMetrics {
    fn new(matrix: &ConfusionMatrix, class: u32) -> Self {
        let [support, predicted] = [matrix.support(class), matrix.predicted(class)];
        let correct = matrix.count(class, class);
        Self {
            precision: share(correct, predicted),
            recall: share(correct, support),
            f1: share(2 * correct, support + predicted),
            support,
            predicted,
            correct,
        }
    }
}

/// Returns `part / whole`; 0 of nothing.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 / whole as f64
}

impl ClassAverages {
    /// Averages the metrics of classes, each with the weight that `weight` gives.
    fn new(classes: &[ClassMetrics], weight: impl Fn(&ClassMetrics) -> u64) -> Self {
        let total: u64 = classes.iter().map(&weight).sum();
        let mean = |value: fn(&ClassMetrics) -> f64| {
            let weighted = classes
                .iter()
                .map(|class| weight(class) as f64 * value(class));
            weighted.sum::<f64>() / total as f64
        };
        Self {
            precision: mean(|class| class.precision),
            recall: mean(|class| class.recall),
            f1: mean(|class| class.f1),
            support: classes.iter().map(|class| class.support).sum(),
        }
    }
}

impl ClassificationReport {
    /// Computes the report; none without predictions.
    pub fn new(predictions: &[Prediction]) -> Option<Self> {
        if predictions.is_empty() {
            return None;
        }
        let matrix = ConfusionMatrix::new(predictions);
        let of_class = |class| (class, ClassMetrics::new(&matrix, class));
        let classes: BTreeMap<u32, ClassMetrics> =
            matrix.classes().into_iter().map(of_class).collect();
        let all: Vec<ClassMetrics> = classes.values().copied().collect();
        let mut with_images = all.clone();
        with_images.retain(|class| class.support > 0);
        let mut label_ranks: Vec<u32> = predictions.iter().map(|one| one.label_rank).collect();
        label_ranks.sort_unstable();
        Some(Self {
            macro_average: ClassAverages::new(&all, |_| 1),
            weighted_average: ClassAverages::new(&all, |class| class.support),
            accuracy: share(matrix.correct(), matrix.total()),
            balanced_accuracy: ClassAverages::new(&with_images, |_| 1).recall,
            label_ranks,
            classes,
        })
    }

    /// Returns the metrics of a class.
    pub fn class(&self, class: u32) -> ClassMetrics {
        self.classes.get(&class).copied().unwrap_or_default()
    }

    /// Returns the metrics of the classes that have images or predictions, in order.
    pub fn classes(&self) -> impl Iterator<Item = (u32, &ClassMetrics)> {
        self.classes
            .iter()
            .map(|(&class, metrics)| (class, metrics))
    }

    /// Returns the share of images of which fewer than `k` classes are more probable than the true
    /// one. With k from 1 to the number of classes, it is the top-k accuracy curve. As in Keras, a
    /// true class that is as probable as the first counts for `k = 1`, even where the prediction is
    /// another class; [`ClassificationReport::accuracy`] does not count it.
    pub fn top_k_accuracy(&self, k: u32) -> f64 {
        let within = self.label_ranks.partition_point(|&rank| rank <= k);
        share(within as u64, self.label_ranks.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(labels: &[u32], predicted: &[u32]) -> Option<ClassificationReport> {
        assert_eq!(labels.len(), predicted.len());
        let pairs = labels.iter().zip(predicted).enumerate();
        let predictions: Vec<Prediction> = pairs
            .map(|(image, (&label, &predicted))| Prediction {
                image,
                label,
                predicted,
                probability: 0.5,
                label_probability: 0.5,
                label_rank: image as u32 % 3 + 1,
            })
            .collect();
        ClassificationReport::new(&predictions)
    }

    fn assert_close(actual: f64, expected: f64) {
        assert!(
            (actual - expected).abs() < 1e-12,
            "{actual}, not {expected}"
        );
    }

    /// Compares with balanced accuracy and macro F1 computed by hand.
    fn assert_metrics(labels: &[u32], predicted: &[u32], balanced_acc: f64, macro_f1: f64) {
        let actual = report(labels, predicted).unwrap();
        assert_close(actual.balanced_accuracy, balanced_acc);
        assert_close(actual.macro_average.f1, macro_f1);
    }

    /// The examples in scikit-learn's documentation of `balanced_accuracy_score` and `f1_score`.
    #[test]
    fn the_examples_of_scikit_learn() {
        // Recalls 3/4 and 1/2; F1 6/8 and 2/4.
        assert_metrics(&[0, 1, 0, 0, 1, 0], &[0, 1, 0, 0, 0, 1], 0.625, 0.625);
        // Recalls 1, 0 and 0; F1 4/5, 0 and 0.
        assert_metrics(
            &[0, 1, 2, 0, 1, 2],
            &[0, 2, 1, 0, 0, 1],
            1.0 / 3.0,
            0.8 / 3.0,
        );
    }

    #[test]
    fn a_model_that_only_knows_the_common_class_is_at_chance() {
        let labels = [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]; // an accuracy of 90%
        assert_metrics(&labels, &[0; 10], 0.5, 18.0 / 19.0 / 2.0);
    }

    #[test]
    fn a_class_that_is_only_predicted_counts_for_f1_alone() {
        // Recalls 1/2 and 1; F1 2/3, 1 and, of class 7, 0.
        assert_metrics(&[0, 0, 1], &[0, 7, 1], 0.75, (2.0 / 3.0 + 1.0) / 3.0);
        assert_metrics(&[0, 1], &[0, 1], 1.0, 1.0);
    }

    #[test]
    fn there_are_none_without_images() {
        assert_eq!(report(&[], &[]), None);
    }

    /// The example in scikit-learn's documentation of `classification_report`.
    #[test]
    fn the_report_of_scikit_learn() {
        let report = report(&[0, 1, 2, 2, 2], &[0, 0, 2, 2, 1]).unwrap();
        for (class, precision, recall, f1, support) in [
            (0, 0.5, 1.0, 2.0 / 3.0, 1),
            (1, 0.0, 0.0, 0.0, 1),
            (2, 1.0, 2.0 / 3.0, 0.8, 3),
        ] {
            let found = report.class(class);
            assert_close(found.precision, precision);
            assert_close(found.recall, recall);
            assert_close(found.f1, f1);
            assert_eq!(found.support, support);
        }
        assert_close(report.accuracy, 0.6);
        for (average, expected) in [
            (report.macro_average, [0.5, 5.0 / 9.0, 22.0 / 45.0]),
            (report.weighted_average, [0.7, 0.6, 46.0 / 75.0]),
        ] {
            let found = [average.precision, average.recall, average.f1];
            for (found, expected) in found.into_iter().zip(expected) {
                assert_close(found, expected);
            }
            assert_eq!(average.support, 5);
        }
    }

    #[test]
    fn shares_of_nothing_are_zero() {
        let report = report(&[0, 0, 1], &[0, 7, 0]).unwrap();
        let never_predicted = report.class(1);
        assert_eq!(never_predicted.precision.to_bits(), 0);
        assert_eq!((never_predicted.support, never_predicted.predicted), (1, 0));
        let without_images = report.class(7);
        assert_eq!(without_images.recall.to_bits(), 0);
        assert_eq!((without_images.support, without_images.predicted), (0, 1));
        assert_eq!(report.class(3), ClassMetrics::default());
        assert_eq!(report.classes().count(), 3);
    }

    #[test]
    fn top_k_accuracy_rises_to_one() {
        let report = report(&[0; 6], &[0; 6]).unwrap(); // ranks 1, 2, 3, 1, 2, 3
        let curve = [0, 1, 2, 3, 4].map(|k| report.top_k_accuracy(k));
        for (actual, expected) in curve.into_iter().zip([0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0, 1.0]) {
            assert_close(actual, expected);
        }
    }
}
