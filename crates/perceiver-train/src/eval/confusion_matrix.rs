//! The confusion matrix: counts per true and predicted class.

use std::collections::BTreeMap;

use crate::eval::predictions::Prediction;

/// The confusion matrix of predictions. Only non-zero counts take memory, so their number is bounded
/// by that of the predictions, whatever the number of classes.
///
/// ```
/// use perceiver_train::ConfusionMatrix;
///
/// let matrix = ConfusionMatrix::of_pairs([(0, 0), (0, 1), (0, 1), (1, 1)]);
/// assert_eq!(matrix.count(0, 1), 2);
/// assert_eq!((matrix.support(0), matrix.predicted(1)), (3, 3));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfusionMatrix {
    /// Counts by (true class, predicted class), without zeros.
    counts: BTreeMap<(u32, u32), u64>,
    /// The sums of the rows.
    support: BTreeMap<u32, u64>,
    /// The sums of the columns.
    predicted: BTreeMap<u32, u64>,
}

/// Two classes of which one is predicted as the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfusedPair {
    /// The true class.
    pub label: u32,
    /// The predicted class.
    pub predicted: u32,
    /// The number of images with this true and predicted class.
    pub count: u64,
    /// The number of images with the two classes swapped.
    pub reverse: u64,
    /// The number of images of the true class.
    pub support: u64,
}

impl ConfusionMatrix {
    /// Counts predictions.
    pub fn new(predictions: &[Prediction]) -> Self {
        let pairs = predictions.iter();
        Self::of_pairs(pairs.map(|prediction| (prediction.label, prediction.predicted)))
    }

    /// Counts pairs of a true and a predicted class.
    pub fn of_pairs(pairs: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut matrix = Self::default();
        for (label, predicted) in pairs {
            *matrix.counts.entry((label, predicted)).or_default() += 1;
            *matrix.support.entry(label).or_default() += 1;
            *matrix.predicted.entry(predicted).or_default() += 1;
        }
        matrix
    }

    /// Returns the number of images of class `label` that are predicted as `predicted`.
    pub fn count(&self, label: u32, predicted: u32) -> u64 {
        self.counts.get(&(label, predicted)).copied().unwrap_or(0)
    }

    /// Returns the number of images of a class: the sum of its row.
    pub fn support(&self, class: u32) -> u64 {
        self.support.get(&class).copied().unwrap_or(0)
    }

    /// Returns the number of images that are predicted as a class: the sum of its column.
    pub fn predicted(&self, class: u32) -> u64 {
        self.predicted.get(&class).copied().unwrap_or(0)
    }

    /// Returns the number of correct predictions: the sum of the diagonal.
    pub fn correct(&self) -> u64 {
        let cells = self.cells();
        cells
            .filter(|(label, predicted, _)| label == predicted)
            .map(|(_, _, count)| count)
            .sum()
    }

    /// Returns the number of all predictions.
    pub fn total(&self) -> u64 {
        self.support.values().sum()
    }

    /// Returns the classes that have images or predictions, in order.
    pub fn classes(&self) -> Vec<u32> {
        let mut classes: Vec<u32> = self.support.keys().copied().collect();
        classes.extend(self.predicted.keys());
        classes.sort_unstable();
        classes.dedup();
        classes
    }

    /// Returns the non-zero entries, by rows: true class, predicted class, count.
    pub fn cells(&self) -> impl Iterator<Item = (u32, u32, u64)> {
        self.counts
            .iter()
            .map(|(&(label, predicted), &count)| (label, predicted, count))
    }

    /// Returns the pairs of different classes in descending order of count; ties in order of class.
    pub fn confused_pairs(&self) -> Vec<ConfusedPair> {
        let wrong = self
            .cells()
            .filter(|(label, predicted, _)| label != predicted);
        let mut pairs: Vec<ConfusedPair> = wrong
            .map(|(label, predicted, count)| ConfusedPair {
                label,
                predicted,
                count,
                reverse: self.count(predicted, label),
                support: self.support(label),
            })
            .collect();
        pairs.sort_by_key(|pair| (std::cmp::Reverse(pair.count), pair.label, pair.predicted));
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_true_classes_and_columns_are_predicted_ones() {
        let matrix = ConfusionMatrix::of_pairs([(0, 0), (0, 7), (2, 0), (0, 7)]);
        assert_eq!(matrix.classes(), [0, 2, 7]);
        let cells: Vec<_> = matrix.cells().collect();
        assert_eq!(cells, [(0, 0, 1), (0, 7, 2), (2, 0, 1)]);
        assert_eq!((matrix.correct(), matrix.total()), (1, 4));
        assert_eq!(
            [0, 2, 7, 8].map(|class| matrix.support(class)),
            [3, 1, 0, 0]
        );
        assert_eq!(
            [0, 2, 7, 8].map(|class| matrix.predicted(class)),
            [2, 0, 2, 0]
        );
    }

    #[test]
    fn pairs_are_sorted_by_count_with_their_reverse() {
        let matrix = ConfusionMatrix::of_pairs([(0, 0), (0, 1), (0, 1), (1, 0), (2, 0), (1, 1)]);
        let pairs = matrix.confused_pairs().into_iter();
        let shown: Vec<_> = pairs
            .map(|pair| {
                (
                    pair.label,
                    pair.predicted,
                    pair.count,
                    pair.reverse,
                    pair.support,
                )
            })
            .collect();
        assert_eq!(shown, [(0, 1, 2, 1, 3), (1, 0, 1, 2, 2), (2, 0, 1, 0, 1)]);
    }
}
