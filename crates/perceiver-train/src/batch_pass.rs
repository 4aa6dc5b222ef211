//! The loss of a batch and its gradients, gone through in parts: one after another to save memory, side by side to keep every
//! core busy where single operations are too small to share.

use std::ops::Range;

use candle_core::{Device, Tensor};
use perceiver_model::{Parameters, Perceiver};
use perceiver_ops::{Mode, Tape};
use rayon::prelude::*;

use crate::error::Result;
use crate::gradients::Gradients;
use crate::loss::Targets;
use crate::working_copy::WorkingCopy;

/// A batch on its way through the model. Every sum is taken in the order of the parts, so threads do not matter.
pub(crate) struct BatchPass<'a> {
    pub(crate) model: &'a Perceiver,
    /// What the model is of, unless it has taps.
    pub(crate) working: &'a WorkingCopy,
    pub(crate) parameters: &'a Parameters,
    pub(crate) images: Tensor, // [batch, channels, H, W]
    pub(crate) targets: Targets,
    /// Where these pictures lie in the whole batch.
    pub(crate) held: Range<usize>,
    /// The size of the whole batch.
    pub(crate) whole: usize,
}

/// What the pass found.
pub(crate) struct BatchResult {
    /// Of every part, one after another, the mean loss, a scalar, and the class scores, `[part, classes]`.
    parts: Vec<(Tensor, Tensor)>,
    samples: usize,
    /// The share that what is held has in the gradients of the whole batch's mean loss.
    pub(crate) gradients: Gradients,
}

impl BatchPass<'_> {
    /// Goes through the batch in `in_turn` parts, each of which is `side_by_side` parts at once. `mode` gives the mode of the part
    /// that starts at a sample. Of each part, only what is held is gone through, as it would be in the whole; None where that is
    /// nothing.
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

    /// What is held of a part of the whole batch, if anything.
    fn held_of(&self, part: &Range<usize>) -> Option<Range<usize>> {
        let held = part.start.max(self.held.start)..part.end.min(self.held.end);
        Some(held).filter(|held| !held.is_empty())
    }

    /// The pass of the first `count` samples alone.
    pub(crate) fn first(&self, count: usize) -> Result<Self> {
        Ok(Self {
            images: self.images.narrow(0, 0, count)?,
            targets: self.targets.part(0, count)?,
            held: 0..count,
            whole: count,
            ..*self
        })
    }

    /// Goes through all that is held at once; the gradients leave by the model's taps, which were made since the tape was started, and none are
    /// in the result.
    pub(crate) fn run_tapped(&self, tape: Tape, mode: Mode) -> Result<BatchResult> {
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

    /// The loss as it counts in the whole batch.
    fn weighed(&self, loss: &Tensor) -> Result<Tensor> {
        let share = self.held.len() as f64 / self.whole as f64;
        Ok((loss * share)?)
    }

    /// The mean loss and the scores, `[part, classes]`, of a part of what is held.
    fn scores(&self, held: &Range<usize>, mode: Mode) -> Result<(Tensor, Tensor)> {
        let (start, count) = (held.start - self.held.start, held.len());
        let images = self.images.narrow(0, start, count)?;
        let logits = self.model.forward(&images, mode)?; // [part, classes]
        let loss = self.targets.part(start, count)?.loss(&logits)?;
        Ok((loss, logits))
    }
}

impl BatchResult {
    /// Nothing is read from the device.
    fn new(loss: &Tensor, gradients: Gradients, logits: &Tensor) -> Result<Self> {
        Ok(Self {
            samples: logits.dim(0)?,
            parts: vec![(loss.detach(), logits.detach())],
            gradients,
        })
    }

    /// The result of the samples of both, these first.
    fn with(mut self, next: Self) -> Result<Self> {
        self.samples += next.samples;
        let share = next.samples as f64 / self.samples as f64;
        self.gradients.move_towards(&next.gradients, share)?;
        self.parts.extend(next.parts);
        Ok(self)
    }

    /// The mean loss, and the class scores on the CPU, `[batch, classes]`.
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

/// A range in at most `parts` parts, all but the last of one length.
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
    fn parts_are_the_whole_in_order() {
        assert_eq!(divide(0..7, 3), [0..3, 3..6, 6..7]);
        assert_eq!(divide(2..4, 5), [2..3, 3..4]);
        assert_eq!(divide(0..4, 1).len(), 1);
        assert!(divide(3..3, 2).is_empty());
    }
}
