//! Which classes a model takes for which.

use std::collections::BTreeMap;

use perceiver_train::Prediction;

/// How often pictures of each class were taken for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confusion {
    /// By (right class, predicted class); pairs that never came up are not in it.
    counts: BTreeMap<(u32, u32), u64>,
    /// Pictures of each right class.
    totals: BTreeMap<u32, u64>,
}

/// A class that was taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The right class.
    pub label: u32,
    /// What it was taken for.
    pub predicted: u32,
    /// How often.
    pub count: u64,
    /// How often the other way round.
    pub reverse: u64,
    /// Pictures of the right class.
    pub of: u64,
}

impl Confusion {
    /// Counts predictions.
    pub fn of(predictions: &[Prediction]) -> Self {
        let mut confusion = Self::default();
        for said in predictions {
            *confusion
                .counts
                .entry((said.label, said.predicted))
                .or_default() += 1;
            *confusion.totals.entry(said.label).or_default() += 1;
        }
        confusion
    }

    /// How often `label` was taken for `predicted`.
    pub fn count(&self, label: u32, predicted: u32) -> u64 {
        self.counts.get(&(label, predicted)).copied().unwrap_or(0)
    }

    /// Pictures of a class.
    pub fn total(&self, label: u32) -> u64 {
        self.totals.get(&label).copied().unwrap_or(0)
    }

    /// Everything that came up: right class, predicted class, how often.
    pub fn cells(&self) -> impl Iterator<Item = (u32, u32, u64)> {
        self.counts
            .iter()
            .map(|(&(label, predicted), &count)| (label, predicted, count))
    }

    /// The pairs of different classes, the most frequent first, of equals those of the first classes.
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
    use crate::testing::said;

    #[test]
    fn pairs_come_by_how_often_and_know_their_reverse() {
        let predictions = [(0, 0), (0, 1), (0, 1), (1, 0), (2, 0), (1, 1)].map(said);
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
