//! Metrics: loss, top-1 and top-5 accuracy as Keras counts them, with confidence intervals.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::distributed::Communicator;
use crate::error::Result;
use crate::step::loss::cross_entropies;

/// The k of top-k accuracy.
pub const TOP_K: usize = 5;

/// Metric sums over the samples seen so far, exact enough to be saved and resumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricSums {
    loss: f64,
    correct: u64,
    correct_top5: u64,
    samples: u64,
}

/// Metrics averaged over samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Mean cross-entropy in nats.
    pub loss: f64,
    /// Top-1 accuracy: the share of samples whose label has the highest logit.
    pub acc: f64,
    /// Top-5 accuracy: the share of samples whose label is among the five highest logits.
    pub top5_acc: f64,
}

impl MetricSums {
    /// Adds a batch: `logits` `[batch, classes]`, `labels` `[batch]` (u32).
    ///
    /// # Errors
    /// When the shapes do not match or a label is not a class.
    pub fn update(&mut self, logits: &Tensor, labels: &Tensor) -> Result<()> {
        self.update_weighted(logits, labels, None)
    }

    /// [`MetricSums::update`] with the loss of every sample multiplied by its weight, if there are
    /// `weights`.
    ///
    /// # Errors
    /// As for [`MetricSums::update`].
    pub(crate) fn update_weighted(
        &mut self,
        logits: &Tensor,
        labels: &Tensor,
        weights: Option<&[f32]>,
    ) -> Result<()> {
        let losses = cross_entropies(logits, labels)?.to_dtype(DType::F32)?;
        let losses = losses.to_vec1::<f32>()?.into_iter().map(f64::from);
        // Summed one by one in f64, so that the mean does not depend on how samples were batched.
        self.loss += match weights {
            None => losses.sum::<f64>(),
            Some(weights) => {
                let weights = weights.iter().copied().map(f64::from);
                losses
                    .zip(weights)
                    .map(|(loss, weight)| loss * weight)
                    .sum()
            }
        };
        let scores = logits.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        for (scores, label) in scores.iter().zip(labels.to_vec1::<u32>()?) {
            let label = label as usize;
            self.correct += u64::from(is_first_of_the_highest(scores, label));
            self.correct_top5 += u64::from(is_in_top_k(scores, label, TOP_K));
            self.samples += 1;
        }
        Ok(())
    }

    /// Adds other sums.
    pub fn add(&mut self, others: &Self) {
        self.loss += others.loss;
        self.correct += others.correct;
        self.correct_top5 += others.correct_top5;
        self.samples += others.samples;
    }

    /// Sums over all ranks.
    ///
    /// # Errors
    /// When a rank has gone.
    pub(crate) fn of_all(self, ranks: &dyn Communicator) -> Result<Self> {
        let mut numbers = self.to_numbers();
        ranks.all_reduce_f64(&mut numbers)?;
        Ok(Self::from_numbers(numbers))
    }

    /// Returns the sums as numbers for an all-reduce; counts are exact up to 2^53.
    pub(crate) fn to_numbers(self) -> [f64; 4] {
        let counts = [self.correct, self.correct_top5, self.samples];
        let [correct, correct_top5, samples] = counts.map(|count| count as f64);
        [self.loss, correct, correct_top5, samples]
    }

    /// Restores sums from [`MetricSums::to_numbers`].
    pub(crate) fn from_numbers([loss, correct, correct_top5, samples]: [f64; 4]) -> Self {
        Self {
            loss,
            correct: correct as u64,
            correct_top5: correct_top5 as u64,
            samples: samples as u64,
        }
    }

    /// Returns the means so far; NaN before the first sample.
    pub fn means(&self) -> Metrics {
        let samples = self.samples as f64;
        Metrics {
            loss: self.loss / samples,
            acc: self.correct as f64 / samples,
            top5_acc: self.correct_top5 as f64 / samples,
        }
    }

    /// Returns the number of samples seen.
    pub fn samples(&self) -> u64 {
        self.samples
    }
}

/// Keras's `argmax` takes the first of equal scores.
fn is_first_of_the_highest(scores: &[f32], label: usize) -> bool {
    let own = scores[label];
    let before = scores[..label].iter().all(|&score| score < own);
    before && scores[label + 1..].iter().all(|&score| score <= own)
}

/// Keras's `in_top_k` counts a label if fewer than k scores are strictly higher.
fn is_in_top_k(scores: &[f32], label: usize, k: usize) -> bool {
    let own = scores[label];
    own.is_finite() && scores.iter().filter(|&&score| score > own).count() < k
}

/// Returns the 95% confidence interval of a proportion measured on `samples` independent samples
/// (Wilson's score interval, which stays within 0 and 1).
///
/// ```
/// let [low, high] = perceiver_train::wilson_interval(0.5, 100);
/// assert!((low - 0.4038).abs() < 1e-4 && (high - 0.5962).abs() < 1e-4);
/// ```
pub fn wilson_interval(proportion: f64, samples: u64) -> [f64; 2] {
    const Z: f64 = 1.959_963_984_540_054; // the 97.5% quantile of the normal distribution
    let n = samples as f64;
    let centre = proportion + Z * Z / (2.0 * n);
    let spread = Z * (proportion * (1.0 - proportion) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    [
        ((centre - spread) / scale).max(0.0),
        ((centre + spread) / scale).min(1.0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_count_as_keras_counts_them() {
        let scores = [1.0, 3.0, 3.0, 2.0];
        assert!(is_first_of_the_highest(&scores, 1));
        assert!(!is_first_of_the_highest(&scores, 2));
        assert!(is_in_top_k(&scores, 2, 1));
        assert!(!is_in_top_k(&scores, 3, 2));
        assert!(is_in_top_k(&scores, 3, 3));
    }

    #[test]
    fn weights_multiply_losses_but_no_counts() {
        let logits = Tensor::new(&[[0f32, 0.0], [0.0, 0.0]], &candle_core::Device::Cpu).unwrap();
        let labels = Tensor::new(&[0u32, 1], &candle_core::Device::Cpu).unwrap();
        let mut sums = MetricSums::default();
        let weights = [0.5, 3.0];
        sums.update_weighted(&logits, &labels, Some(&weights))
            .unwrap();
        let expected = (0.5 + 3.0) * 2f64.ln() / 2.0; // even scores: ln 2 each
        assert!((sums.means().loss - expected).abs() < 1e-6);
        assert_eq!((sums.correct, sums.samples), (1, 2));
    }

    #[test]
    fn nan_logits_are_never_correct() {
        let scores = [f32::NAN, f32::NAN];
        assert!(!is_first_of_the_highest(&scores, 0));
        assert!(!is_in_top_k(&scores, 0, 5));
    }
}
