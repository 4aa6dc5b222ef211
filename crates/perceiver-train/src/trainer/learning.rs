//! What a batch teaches: its loss, how it was classified, and the gradients, which are those of all ranks together.

use std::sync::PoisonError;
use std::sync::mpsc::Sender;

use perceiver_data::Batch;
use perceiver_model::Perceiver;
use perceiver_ops::{Key, Mode, Tape};

use crate::batch_pass::{BatchPass, BatchResult};
use crate::error::Result;
use crate::exchange::Arrival;
use crate::gradients::Gradients;
use crate::loss::Targets;
use crate::tap::{Found, tapped_model};
use crate::trainer::Trainer;

impl Trainer {
    /// How this rank's `part` of a batch of so many `images` is classified, if it has one, and the gradients of the whole batch's mean loss.
    pub(super) fn gradients(
        &self,
        part: &Batch,
        images: usize,
    ) -> Result<(Option<BatchResult>, Gradients)> {
        let arrival = self.arrival(part);
        let find = |found: &Sender<Found>| self.find_gradients(part, images, arrival, found);
        self.exchange.summed(arrival, &self.parameters, find)
    }

    /// When the gradients of this rank's part are known.
    fn arrival(&self, part: &Batch) -> Arrival {
        let training = &self.recipe.training;
        let is_one_pass = training.accumulate == 1 && training.side_by_side == 1;
        // A second thread on the only core would take from the first what it saves.
        let has_room = !self.place.device.is_cpu() || rayon::current_num_threads() > 1;
        match part.indices.len() {
            0 => Arrival::Never,
            _ if is_one_pass && has_room && self.place.ranks.size() > 1 => Arrival::OneByOne,
            _ => Arrival::Together,
        }
    }

    /// Sends the gradients of this rank's part to `found`, and returns the rest of the result; none of an empty part.
    fn find_gradients(
        &self,
        part: &Batch,
        images: usize,
        arrival: Arrival,
        found: &Sender<Found>,
    ) -> Result<Option<BatchResult>> {
        let training = &self.recipe.training;
        let key = self.dropout_key();
        let mode = |start: usize| match start {
            0 => Mode::Training(key),
            _ => Mode::Training(key.fold_in_name("part").fold_in(start as u64)),
        };
        if arrival == Arrival::OneByOne {
            let dtype = training.precision.dtype();
            let tape = Tape::start();
            let model = tapped_model(&self.parameters, &self.recipe.model, dtype, found)?;
            let model = model.with_recomputation(training.recompute);
            let result = self.pass(&model, part, images)?.run_tapped(tape, mode(0))?;
            return Ok(Some(result));
        }
        let model = self.working.model(&self.parameters)?;
        let pass = self.pass(model, part, images)?;
        let mut result = pass.run(training.accumulate, training.side_by_side, mode)?;
        if let Some(result) = &mut result {
            for gradient in std::mem::take(&mut result.gradients) {
                // Nobody receives once the exchange has failed, which it tells itself.
                let _ = found.send(gradient);
            }
        }
        Ok(result)
    }

    /// The pass of this rank's part of a batch of `whole` pictures.
    pub(super) fn pass<'a>(
        &'a self,
        model: &'a Perceiver,
        batch: &Batch,
        whole: usize,
    ) -> Result<BatchPass<'a>> {
        let classes = self.recipe.model.num_classes();
        let smoothing = self.recipe.training.label_smoothing;
        let mut upload = self.upload.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(BatchPass {
            model,
            working: &self.working,
            parameters: &self.parameters,
            images: batch.images.to_device(&self.place.device)?, // [batch, 3, s, s]
            targets: Targets::new(batch, classes, smoothing, &mut upload)?,
            held: self.place.ranks.part().range(whole),
            whole,
        })
    }

    /// What dropout is keyed by in this step.
    fn dropout_key(&self) -> Key {
        let root = Key::new(self.recipe.training.seed).fold_in_name("dropout");
        root.fold_in(self.progress.steps)
    }
}
