//! The confusion matrix and its largest entries.

use std::collections::BTreeMap;

use perceiver_train::Prediction;

/// The confusion matrix: counts per true and predicted class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confusion {
    /// Counts by (true class, predicted class), without zeros.
    counts: BTreeMap<(u32, u32), u64>,
    /// The number of images per true class.
    totals: BTreeMap<u32, u64>,
}

/// A pair of confused classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The true class.
    pub label: u32,
    /// The predicted class.
    pub predicted: u32,
    /// The number of images with this true and predicted class.
    pub count: u64,
    /// The number of images with the two classes swapped.
    pub reverse: u64,
    /// The number of images of the true class.
    pub of: u64,
}

impl Confusion {
    /// Counts predictions.
    pub fn of(predictions: &[Prediction]) -> Self {
        let mut confusion = Self::default();
        for prediction in predictions {
            *confusion
                .counts
                .entry((prediction.label, prediction.predicted))
                .or_default() += 1;
            *confusion.totals.entry(prediction.label).or_default() += 1;
        }
        confusion
    }

    /// Returns the number of images of class `label` predicted as `predicted`.
    pub fn count(&self, label: u32, predicted: u32) -> u64 {
        self.counts.get(&(label, predicted)).copied().unwrap_or(0)
    }

    /// Returns the number of images of a class.
    pub fn total(&self, label: u32) -> u64 {
        self.totals.get(&label).copied().unwrap_or(0)
    }

    /// Returns the non-zero entries: true class, predicted class, count.
    pub fn cells(&self) -> impl Iterator<Item = (u32, u32, u64)> {
        self.counts
            .iter()
            .map(|(&(label, predicted), &count)| (label, predicted, count))
    }

    /// Returns the pairs of different classes in descending order of count; ties in order of class.
    pub fn pairs(&self) -> Vec<Pair> {
        let wrong = self
            .cells()
            .filter(|(label, predicted, _)| label != predicted);
        let mut pairs: Vec<Pair> = wrong
            .map(|(label, predicted, count)| Pair {
                label,
                predicted,
                count,
                reverse: self.count(predicted, label),
                of: self.total(label),
            })
            .collect();
        pairs.sort_by_key(|pair| (std::cmp::Reverse(pair.count), pair.label, pair.predicted));
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::prediction;

    #[test]
    fn pairs_are_sorted_by_count_with_their_reverse() {
        let predictions = [(0, 0), (0, 1), (0, 1), (1, 0), (2, 0), (1, 1)].map(prediction);
        let confusion = Confusion::of(&predictions);
        assert_eq!((confusion.count(0, 0), confusion.count(2, 2)), (1, 0));
        let pairs = confusion.pairs();
        let shown: Vec<_> = pairs
            .iter()
            .map(|pair| {
                (
                    pair.label,
                    pair.predicted,
                    pair.count,
                    pair.reverse,
                    pair.of,
                )
            })
            .collect();
        assert_eq!(shown, [(0, 1, 2, 1, 3), (1, 0, 1, 2, 2), (2, 0, 1, 0, 1)]);
    }
}
