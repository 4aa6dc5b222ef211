//! One training step: forward and backward pass, all-reduce, clipping, optimizer, EMA, metrics.

use std::sync::PoisonError;
use std::sync::mpsc::Sender;

use perceiver_data::Batch;
use perceiver_model::{Architecture, Classifier};
use perceiver_ops::{Mode, RngKey, Tape};

use crate::distributed::all_reduce::Arrival;
use crate::distributed::gradient_hook::{NamedGradient, hooked_model};
use crate::error::Result;
use crate::eval::metrics::Metrics;
use crate::lr_schedule::{End, Position};
use crate::optim::gradients::Gradients;
use crate::step::loss::Targets;
use crate::step::micro_batches::{BatchResult, MicroBatches};
use crate::trainer::Trainer;
use crate::trainer::readback::{Norm, Unread};
use crate::trainer::timer::TimeLeft;

impl Trainer {
    /// Trains on this rank's `part` of a batch of `images` images, and returns the mean metrics of
    /// the epoch so far.
    pub(super) fn step(
        &mut self,
        part: &Batch,
        images: usize,
        time: Option<TimeLeft>,
    ) -> Result<Metrics> {
        let (result, gradients) = self.gradients(part, images)?;
        let norm = self.norm(&gradients)?;
        let steps = self.progress.steps;
        let weights = self.class_weights.as_ref();
        let weights = weights.map(|weights| weights.of_batch(part)).transpose()?;
        self.learning_rate = self.scheduled_rate(time);
        let rate = self.learning_rate;
        let unread = Unread::new(result, part, weights, images, steps, norm.clone(), rate);
        self.unread.push(unread);
        if self.is_reading_due() {
            self.read_pending()?;
        }
        if let (Norm::Known(norm), true) = (&norm, self.recipe.training.diagnose) {
            let sums = &mut self.progress.epoch.gradients;
            sums.add(&gradients, *norm, &self.summary)?;
        }
        if self.histograms.is_due(self.progress.history.len()) {
            self.histograms.gradients = Some(gradients.clone());
        }
        let gradients = self.clipped(gradients, &norm)?;
        self.optimizer.set_learning_rate(self.learning_rate);
        let gradients = if self.parts.has_optimizer() {
            gradients.with_factor_applied()?
        } else {
            gradients
        };
        self.optimizer.step(&self.trained, &gradients)?;
        self.progress.steps += 1;
        if let Some(ema) = &mut self.ema {
            ema.update(&self.parameters, self.progress.steps)?;
        }
        Ok(self.progress.epoch.sums.means())
    }

    /// Computes the result of this rank's `part` of a batch of `images` images, unless it is empty,
    /// and the gradients of the global batch's mean loss.
    fn gradients(&self, part: &Batch, images: usize) -> Result<(Option<BatchResult>, Gradients)> {
        let arrival = self.arrival(part);
        let compute =
            |sender: &Sender<NamedGradient>| self.compute_gradients(part, images, arrival, sender);
        self.all_reduce.summed(arrival, &self.trained, compute)
    }

    /// Returns when the gradients of this rank's part become available.
    fn arrival(&self, part: &Batch) -> Arrival {
        let training = &self.recipe.training;
        let is_one_pass =
            training.gradient_accumulation == 1 && training.parallel_micro_batches == 1;
        // On a single core, a second thread would cost as much as it saves.
        let has_room = !self.placement.device.is_cpu() || rayon::current_num_threads() > 1;
        match part.indices.len() {
            0 => Arrival::Never,
            _ if is_one_pass && has_room && self.placement.ranks.size() > 1 => Arrival::OneByOne,
            _ => Arrival::Together,
        }
    }

    /// Sends the gradients of this rank's part to `sender`, and returns the rest of the result; none
    /// if the part is empty.
    fn compute_gradients(
        &self,
        part: &Batch,
        images: usize,
        arrival: Arrival,
        sender: &Sender<NamedGradient>,
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
            let mut model = hooked_model(&self.trained, &self.recipe.model, dtype, sender)?;
            model.set_activation_checkpointing(training.activation_checkpointing);
            let result = self
                .pass(&model, part, images)?
                .run_with_hooks(tape, mode(0))?;
            return Ok(Some(result));
        }
        let model = self.working.model(&self.trained)?;
        let pass = self.pass(model, part, images)?;
        let mut result = pass.run(
            training.gradient_accumulation,
            training.parallel_micro_batches,
            mode,
        )?;
        if let Some(result) = &mut result {
            for gradient in std::mem::take(&mut result.gradients) {
                // Nobody receives after a failed all-reduce, which reports its own error.
                let _ = sender.send(gradient);
            }
        }
        Ok(result)
    }

    /// Creates the pass of this rank's part of a batch of `whole` images.
    pub(super) fn pass<'a>(
        &'a self,
        model: &'a dyn Classifier,
        batch: &Batch,
        whole: usize,
    ) -> Result<MicroBatches<'a>> {
        let classes = self.recipe.model.num_classes();
        let smoothing = self.recipe.training.label_smoothing;
        let weights = self.class_weights.as_ref();
        let mut upload = self.upload.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(MicroBatches {
            model,
            working: &self.working,
            parameters: &self.trained,
            images: batch.images.to_device(&self.placement.device)?, // [batch, 3, s, s]
            targets: Targets::new(batch, classes, smoothing, weights, &mut upload)?,
            loss: self.parts.loss.as_deref(),
            held: self.placement.ranks.part().range(whole),
            whole,
        })
    }

    /// Returns the dropout key of this step.
    fn dropout_key(&self) -> RngKey {
        let root = RngKey::new(self.recipe.training.seed).fold_in_name("dropout");
        root.fold_in(self.progress.steps)
    }

    /// Returns the learning rate of the next step: that of the plateau schedule times the
    /// schedule's factor.
    fn scheduled_rate(&self, time: Option<TimeLeft>) -> f32 {
        let position = Position {
            step: self.progress.steps,
            steps_per_epoch: self.steps_per_epoch() as u64,
            end: match time {
                None => End::Epochs(self.recipe.training.epochs as u64),
                Some(time) => End::Clock(time.share),
            },
        };
        let factor = match &self.parts.schedule {
            None => self.recipe.training.schedule.factor(position),
            Some(schedule) => schedule(position),
        };
        (f64::from(self.progress.learning_rate) * factor) as f32
    }
}
