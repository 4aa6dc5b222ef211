//! Reduces per-rank batch metrics to the metrics of the global batch.

use candle_core::Tensor;

use crate::distributed::Communicator;
use crate::error::Result;
use crate::eval::metrics::MetricSums;

/// The metrics of a batch, or of a rank's part of it.
pub(crate) struct BatchMetrics {
    /// The mean loss.
    pub(crate) loss: f64,
    /// The metric sums of the images.
    pub(crate) sums: MetricSums,
}

impl BatchMetrics {
    /// Computes the metrics of images with these `labels`, u32 `[n]`, and `logits`, `[n, classes]`.
    /// If there are `weights`, of each image, the sums have the weighted losses.
    ///
    /// # Errors
    /// When candle refuses an operation.
    pub(crate) fn new(
        loss: f64,
        logits: &Tensor,
        labels: &Tensor,
        weights: Option<&[f32]>,
    ) -> Result<Self> {
        let mut sums = MetricSums::default();
        sums.update_weighted(logits, labels, weights)?;
        Ok(Self { loss, sums })
    }

    /// Reduces the metrics over all ranks. This rank had a `share` of the batch; `part` is none if
    /// that was empty.
    ///
    /// # Errors
    /// When a rank has gone.
    pub(crate) fn of_all(ranks: &dyn Communicator, part: Option<Self>, share: f64) -> Result<Self> {
        let part = part.unwrap_or(Self {
            loss: 0.0,
            sums: MetricSums::default(),
        });
        // One all-reduce for all numbers, since every step does this.
        let [of_loss, correct, correct_top5, samples] = part.sums.to_numbers();
        let mut numbers = [of_loss, correct, correct_top5, samples, part.loss * share];
        ranks.all_reduce_f64(&mut numbers)?;
        let [of_loss, correct, correct_top5, samples, loss] = numbers;
        Ok(Self {
            loss,
            sums: MetricSums::from_numbers([of_loss, correct, correct_top5, samples]),
        })
    }
}
