//! Micro-batches: splits a batch for gradient accumulation, or to keep all cores busy, and averages
//! loss and gradients.

use std::ops::Range;

use candle_core::{Device, Tensor};
use perceiver_model::{Classifier, Parameters};
use perceiver_ops::{Mode, Tape};
use rayon::prelude::*;

use crate::error::Result;
use crate::optim::gradients::Gradients;
use crate::step::loss::{CustomLoss, Targets};
use crate::step::mixed_precision::MixedPrecision;

/// The forward and backward pass of a batch in micro-batches. Sums are taken in the order of the
/// micro-batches, so results do not depend on threads.
pub(crate) struct MicroBatches<'a> {
    pub(crate) model: &'a dyn Classifier,
    /// The parameters or working copies that `model` computes with, unless it is tapped.
    pub(crate) working: &'a MixedPrecision,
    pub(crate) parameters: &'a Parameters,
    pub(crate) images: Tensor, // [batch, channels, H, W]
    pub(crate) targets: Targets,
    /// The loss, if it is not cross-entropy.
    pub(crate) loss: Option<&'a CustomLoss>,
    /// The range of these images in the global batch.
    pub(crate) held: Range<usize>,
    /// The size of the global batch.
    pub(crate) whole: usize,
}

/// The result of the forward and backward pass.
pub(crate) struct BatchResult {
    /// The mean loss (a scalar) and the logits, `[part, classes]`, of every micro-batch in order.
    parts: Vec<(Tensor, Tensor)>,
    samples: usize,
    /// This rank's share of the gradients of the global batch's mean loss.
    pub(crate) gradients: Gradients,
}

impl MicroBatches<'_> {
    /// Runs the batch as `in_turn` sequential parts, each of `side_by_side` parallel micro-batches.
    /// `mode` returns the mode of the micro-batch that starts at a sample. The global batch is
    /// divided; of each micro-batch, only this rank's samples are computed, as they would be in the
    /// whole. Returns none if this rank has no samples.
    pub(crate) fn run(
        &self,
        in_turn: usize,
        side_by_side: usize,
        mode: impl Fn(usize) -> Mode + Sync,
    ) -> Result<Option<BatchResult>> {
        let mut all: Option<BatchResult> = None;
        for turn in divide(0..self.whole, in_turn) {
            let parts = divide(turn, side_by_side)
                .into_par_iter()
                .filter_map(|part| {
                    let held = self.held_of(&part)?;
                    let mode = mode(part.start).part(held.start - part.start);
                    Some(self.part(&held, mode))
                })
                .collect::<Vec<_>>();
            for part in parts {
                all = Some(match all {
                    None => part?,
                    Some(all) => all.with(part?)?,
                });
            }
        }
        Ok(all)
    }

    /// Returns this rank's samples of a part of the global batch, if any.
    fn held_of(&self, part: &Range<usize>) -> Option<Range<usize>> {
        let held = part.start.max(self.held.start)..part.end.min(self.held.end);
        Some(held).filter(|held| !held.is_empty())
    }

    /// Returns the pass of the first `count` samples only.
    pub(crate) fn first(&self, count: usize) -> Result<Self> {
        Ok(Self {
            images: self.images.narrow(0, 0, count)?,
            targets: self.targets.part(0, count)?,
            held: 0..count,
            whole: count,
            ..*self
        })
    }

    /// Runs all samples of this rank at once. The gradients leave through the taps of the model,
    /// which must have been made since the tape was started; the result has none.
    pub(crate) fn run_with_hooks(&self, tape: Tape, mode: Mode) -> Result<BatchResult> {
        let (loss, logits) = self.scores(&self.held, mode.part(self.held.start))?;
        tape.backward(&self.weighed(&loss)?)?;
        BatchResult::new(&loss, Gradients::default(), &logits)
    }

    fn part(&self, held: &Range<usize>, mode: Mode) -> Result<BatchResult> {
        let tape = Tape::start();
        let (loss, logits) = self.scores(held, mode)?;
        let loss_of_whole = self.weighed(&loss)?;
        let (working, parameters) = (self.working, self.parameters);
        let gradients = working.gradients(tape, &loss_of_whole, parameters)?;
        BatchResult::new(&loss, gradients, &logits)
    }

    /// Weights the loss by this rank's share of the global batch.
    fn weighed(&self, loss: &Tensor) -> Result<Tensor> {
        let share = self.held.len() as f64 / self.whole as f64;
        Ok((loss * share)?)
    }

    /// Computes the mean loss and the logits, `[part, classes]`, of some samples of this rank.
    fn scores(&self, held: &Range<usize>, mode: Mode) -> Result<(Tensor, Tensor)> {
        let (start, count) = (held.start - self.held.start, held.len());
        let images = self.images.narrow(0, start, count)?;
        let logits = self.model.forward(&images, mode)?; // [part, classes]
        let targets = self.targets.part(start, count)?;
        let loss = match self.loss {
            None => targets.loss(&logits)?,
            Some(loss) => loss(&logits, targets.probabilities())?,
        };
        Ok((loss, logits))
    }
}

impl BatchResult {
    /// Creates the result without reading from the device.
    fn new(loss: &Tensor, gradients: Gradients, logits: &Tensor) -> Result<Self> {
        Ok(Self {
            samples: logits.dim(0)?,
            parts: vec![(loss.detach(), logits.detach())],
            gradients,
        })
    }

    /// Combines two results; these samples come first.
    fn with(mut self, next: Self) -> Result<Self> {
        self.samples += next.samples;
        let share = next.samples as f64 / self.samples as f64;
        self.gradients.move_towards(&next.gradients, share)?;
        self.parts.extend(next.parts);
        Ok(self)
    }

    /// Returns the mean loss, and the logits on the CPU, `[batch, classes]`.
    pub(crate) fn score(&self) -> Result<(f64, Tensor)> {
        let (mut mean, mut samples) = (0.0, 0);
        let mut all = Vec::with_capacity(self.parts.len());
        for (loss, logits) in &self.parts {
            let loss = f64::from(loss.to_device(&Device::Cpu)?.to_scalar::<f32>()?);
            samples += logits.dim(0)?;
            mean += (loss - mean) * (logits.dim(0)? as f64 / samples as f64);
            all.push(logits.to_device(&Device::Cpu)?);
        }
        Ok((mean, Tensor::cat(&all, 0)?))
    }
}

/// Divides a range into at most `parts` parts of equal length, except for the last.
fn divide(range: Range<usize>, parts: usize) -> Vec<Range<usize>> {
    let length = range.len().div_ceil(parts.max(1)).max(1);
    let end = range.end;
    range
        .step_by(length)
        .map(|start| start..(start + length).min(end))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn micro_batches_are_the_batch_in_order() {
        assert_eq!(divide(0..7, 3), [0..3, 3..6, 6..7]);
        assert_eq!(divide(2..4, 5), [2..3, 3..4]);
        assert_eq!(divide(0..4, 1).len(), 1);
        assert!(divide(3..3, 2).is_empty());
    }
}
