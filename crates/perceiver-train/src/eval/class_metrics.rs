//! Balanced accuracy and macro F1: means over classes, in which a rare class counts as much as a
//! common one.

use std::collections::BTreeMap;

use crate::eval::predictions::Prediction;

/// Metrics averaged over classes, as scikit-learn's `balanced_accuracy_score` and
/// `f1_score(average="macro")` define them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ClassMetrics {
    /// The mean recall over the classes that have images. The recall of a class is the accuracy on
    /// its images.
    pub(crate) balanced_acc: f64,
    /// The mean F1 over the classes that have images or predictions.
    pub(crate) macro_f1: f64,
}

/// The counts of a class.
#[derive(Clone, Copy, Default)]
struct Counts {
    /// Its images.
    images: u64,
    /// The images predicted as this class.
    predicted: u64,
    /// Those of both.
    right: u64,
}

impl Counts {
    fn recall(self) -> Option<f64> {
        (self.images > 0).then(|| self.right as f64 / self.images as f64)
    }

    /// `2 TP / (2 TP + FP + FN)`, the harmonic mean of precision and recall.
    fn f1(self) -> f64 {
        2.0 * self.right as f64 / (self.images + self.predicted) as f64
    }
}

impl ClassMetrics {
    /// Computes the metrics; none without predictions.
    pub(crate) fn new(predictions: &[Prediction]) -> Option<Self> {
        // Sorted, so that the sums do not depend on the order of the images.
        let mut classes = BTreeMap::<u32, Counts>::new();
        for prediction in predictions {
            classes.entry(prediction.predicted).or_default().predicted += 1;
            let of_label = classes.entry(prediction.label).or_default();
            of_label.images += 1;
            of_label.right += u64::from(prediction.is_right());
        }
        let counts: Vec<Counts> = classes.into_values().collect();
        Some(Self {
            balanced_acc: mean(counts.iter().copied().filter_map(Counts::recall))?,
            macro_f1: mean(counts.iter().copied().map(Counts::f1))?,
        })
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then_some(sum / count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(labels: &[u32], predicted: &[u32]) -> Option<ClassMetrics> {
        assert_eq!(labels.len(), predicted.len());
        let pairs = labels.iter().zip(predicted).enumerate();
        let predictions: Vec<Prediction> = pairs
            .map(|(image, (&label, &predicted))| Prediction {
                image,
                label,
                predicted,
                probability: 0.5,
                label_probability: 0.5,
                label_rank: 1,
            })
            .collect();
        ClassMetrics::new(&predictions)
    }

    /// Compares with balanced accuracy and macro F1 computed by hand.
    fn assert_metrics(labels: &[u32], predicted: &[u32], balanced_acc: f64, macro_f1: f64) {
        let actual = metrics(labels, predicted).unwrap();
        for (actual, expected) in [
            (actual.balanced_acc, balanced_acc),
            (actual.macro_f1, macro_f1),
        ] {
            assert!(
                (actual - expected).abs() < 1e-12,
                "{actual}, not {expected}"
            );
        }
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
        assert_eq!(metrics(&[], &[]), None);
    }
}
