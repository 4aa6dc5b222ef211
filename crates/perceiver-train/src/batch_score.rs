//! What the ranks have found in their parts of a batch, made into what one would have found in the whole.

use candle_core::Tensor;

use crate::error::Result;
use crate::metrics::MetricSums;
use crate::ranks::Ranks;

/// How a batch was scored: a part of it, or the whole.
pub(crate) struct BatchScore {
    /// The mean loss.
    pub(crate) loss: f64,
    /// How its pictures were classified.
    pub(crate) sums: MetricSums,
}

impl BatchScore {
    /// The score of pictures of these `labels`, u32 `[n]`, whose scores are `logits`, `[n, classes]`.
    ///
    /// # Errors
    /// When candle refuses an operation.
    pub(crate) fn new(loss: f64, logits: &Tensor, labels: &Tensor) -> Result<Self> {
        let mut sums = MetricSums::default();
        sums.update(logits, labels)?;
        Ok(Self { loss, sums })
    }

    /// The score of the whole, of which this rank had a `share`; none, where that was nothing.
    ///
    /// # Errors
    /// When a rank has gone.
    pub(crate) fn of_all(ranks: &dyn Ranks, part: Option<Self>, share: f64) -> Result<Self> {
        let part = part.unwrap_or(Self {
            loss: 0.0,
            sums: MetricSums::default(),
        });
        // At once, as this is done in every step.
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
