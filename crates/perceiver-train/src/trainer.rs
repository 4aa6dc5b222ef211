//! The training loop, which can be interrupted and resumed at any step.
//!
//! No random generator keeps state: augmentation is keyed by (seed, epoch, sample) and dropout by
//! (seed, step, layer). So the training state consists of a few numbers and the tensors. On the
//! CPU, a resumed run ends with the same bits as an uninterrupted one.

pub(crate) mod checkpointing;
mod custom_parts;
pub(crate) mod early_stopping;
mod epoch;
pub(crate) mod estimate;
pub(crate) mod freezing;
pub(crate) mod init_from;
pub(crate) mod readback;
pub(crate) mod setup;
mod test;
pub(crate) mod timer;
pub(crate) mod train_step;
pub(crate) mod training_state;
mod validation;
mod watch;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use candle_core::{Device, Tensor};
use perceiver_data::{Loader, LoaderConfig, Preprocessing};
use perceiver_model::{Classifier, Parameters, Summary};
use perceiver_ops::Upload;

#[cfg(doc)]
use crate::callbacks::Control;
use crate::callbacks::notifier::Notifier;
use crate::callbacks::{Callback, EpochMetrics, Event};
use crate::data::TrainingData;
use crate::diagnostics::watchdog::Watchdog;
use crate::distributed::Placement;
use crate::distributed::all_reduce::GradientAllReduce;
use crate::error::{Result, TrainError};
use crate::optim::Optimizer;
use crate::optim::ema::Ema;
use crate::recipe::Recipe;
use crate::recipe::budget::Budget;
use crate::run::directory::RunDirectory;
use crate::step::class_weights::ClassWeights;
use crate::step::mixed_precision::MixedPrecision;
use crate::trainer::estimate::{Forecast, Trial};
use crate::trainer::timer::{Clock, TestReserve, TimeLeft, TimeSpent, Workload};
use crate::trainer::training_state::{EpochProgress, Progress};
use custom_parts::CustomParts;
use epoch::EpochEnd;
use readback::Unread;
use watch::Histograms;

/// The outcome of [`Trainer::fit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The run ended: all epochs are done, the time is up, or early stopping ended it. The model
    /// has the best weights.
    Finished,
    /// The run was interrupted and has saved its state.
    Interrupted,
}

/// Values that the ranks agree on before a step.
struct Signal {
    /// Whether any rank was asked to save and leave.
    interrupt: bool,
    /// Whether a callback of any rank asked to end training.
    stop: bool,
    /// The time left for training, by the clock of rank 0.
    time: Option<TimeLeft>,
}

/// A training run: recipe, data, model, optimizer and run directory.
pub struct Trainer {
    recipe: Recipe,
    data: TrainingData,
    placement: Placement,
    all_reduce: GradientAllReduce,
    run: RunDirectory,
    parameters: Parameters,
    /// The same parameters, of which those that are frozen now are not trained.
    trained: Parameters,
    model: Box<dyn Classifier>,
    working: MixedPrecision,
    /// The weights of the classes in the training loss, if they have any.
    class_weights: Option<ClassWeights>,
    /// The weights of the classes in the validation loss, where training makes all count the same.
    validation_weights: Option<ClassWeights>,
    /// Copies targets to the device.
    upload: Mutex<Upload>,
    optimizer: Box<dyn Optimizer>,
    /// The learning rate of the last step.
    learning_rate: f32,
    /// The parts that the caller has set in place of the recipe's.
    parts: CustomParts,
    ema: Option<Ema>,
    best: HashMap<String, Tensor>,
    progress: Progress,
    /// Results of steps that are still on the device.
    unread: Vec<Unread>,
    /// The number of steps after which they are read.
    read_after: usize,
    /// The time at which the state was last saved or read.
    saved: Instant,
    clock: Clock,
    watchdog: Watchdog,
    histograms: Histograms,
    summary: Summary,
}

impl Trainer {
    /// Sets the start of the budget to `since` and reserves time for a test. By default, the budget
    /// starts when the trainer is created, and no test follows.
    #[must_use]
    pub fn timed(mut self, since: Instant, test: TestReserve) -> Self {
        self.clock.since = since;
        self.clock.test = test;
        self
    }

    /// Returns the recipe, with the data's number of classes in the model.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Returns the model with its current weights.
    pub fn model(&self) -> &dyn Classifier {
        &*self.model
    }

    /// Returns the current parameters of the model.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Returns the preprocessing of images.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.data.preprocessing
    }

    /// Returns the training and validation data.
    pub fn data(&self) -> &TrainingData {
        &self.data
    }

    /// Returns the device of the model.
    pub fn device(&self) -> &Device {
        &self.placement.device
    }

    /// Returns the device and the ranks of the run.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Returns the number of training images, validation included.
    pub fn images(&self) -> usize {
        self.data.len()
    }

    /// Returns the number of steps in a whole epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.data
            .train
            .len()
            .div_ceil(self.recipe.training.batch_size)
    }

    /// Returns the run directory.
    pub fn run(&self) -> &RunDirectory {
        &self.run
    }

    /// Forecasts the time and memory of an epoch from trial passes on the first batch. The run does
    /// not change.
    ///
    /// # Errors
    /// When an image cannot be read or the device is out of memory.
    pub fn forecast(&self) -> Result<Option<Forecast>> {
        let Some(batch) = self.training_loader()?.epoch(0, 0).next() else {
            return Ok(None);
        };
        let batch = batch?;
        if batch.indices.is_empty() {
            return Ok(None);
        }
        let ranks = self.placement.ranks.size();
        let model = self.working.model(&self.trained)?;
        let trial = Trial {
            pass: self.pass(model, &batch, batch.indices.len())?,
            recipe: &self.recipe,
            train_images: self.data.train.len().div_ceil(ranks),
            validation_images: self.data.validation.len().div_ceil(ranks),
        };
        trial.forecast().map(Some)
    }

    /// Returns the least budget, in whole seconds, for one step, its validation, saving and the
    /// test, in a run that has done none of these. `forecast` is that of the run. A shorter budget
    /// will be exceeded.
    pub fn least_budget(&self, forecast: &Forecast) -> Budget {
        let ranks = self.placement.ranks.size() as f64;
        let inference = forecast.inference_seconds / ranks;
        let workload = self.workload(forecast.training_seconds / ranks);
        let time = TimeSpent {
            validation: Some(inference * workload.validation_images as f64),
            ..self.progress.time
        };
        Budget::of_seconds(workload.least(&self.clock, &time))
    }

    /// Returns the metrics of the epochs done.
    pub fn history(&self) -> &[EpochMetrics] {
        &self.progress.history
    }

    /// Trains to the end.
    ///
    /// # Errors
    /// When the loss or the gradients are NaN or infinite, a file cannot be written, or a callback
    /// fails. The last saved state stays.
    pub fn fit(&mut self, callback: &mut dyn Callback) -> Result<Outcome> {
        self.fit_until(callback, &AtomicBool::new(false))
    }

    /// [`Trainer::fit`], until `interrupt` is set, such as by a signal handler: then it finishes the
    /// current step and saves the state, from which [`Trainer::resume`] continues. To end training
    /// early and keep the best weights, a callback returns [`Control::Stop`].
    ///
    /// # Errors
    /// As for [`Trainer::fit`].
    pub fn fit_until(
        &mut self,
        callback: &mut dyn Callback,
        interrupt: &AtomicBool,
    ) -> Result<Outcome> {
        self.require_same_parts()?;
        self.set_layer_rates()?;
        let notifier = &mut Notifier::new(callback, interrupt);
        let loader = self.training_loader()?;
        let history = &self.progress.history;
        notifier.notify(&Event::Started { history })?;
        notifier.notify(&Event::StepHistory(self.progress.step_history.points()))?;
        if self.progress.steps == 0 {
            self.progress.time.lead_in = self.clock.spent();
        }
        loop {
            let signal = self.signal(notifier)?;
            if signal.stop && !self.progress.history.is_empty() && self.is_between_epochs() {
                self.progress.stopped = true;
                self.save()?;
            }
            if self.is_at_end(signal.time) {
                break;
            }
            if let EpochEnd::Interrupted = self.train_epoch(&loader, notifier)? {
                self.read_pending()?;
                self.save()?;
                let run = self.run.root();
                notifier.notify(&Event::Interrupted { run })?;
                return Ok(Outcome::Interrupted);
            }
            self.end_epoch(notifier)?;
        }
        if !self.best.is_empty() {
            self.parameters.assign(&self.best)?;
        }
        let history = &self.progress.history;
        notifier.notify(&Event::Finished { history })?;
        Ok(Outcome::Finished)
    }

    fn is_between_epochs(&self) -> bool {
        self.progress.epoch.batches_done == 0
    }

    /// Returns whether training is complete.
    pub fn is_done(&self) -> bool {
        self.is_at_end(self.time_left())
    }

    fn is_at_end(&self, time: Option<TimeLeft>) -> bool {
        let Progress { history, epoch, .. } = &self.progress;
        let at_end = match time {
            // An epoch that has begun is first validated and recorded, and there is at least one
            // step.
            Some(time) => time.is_up && epoch.batches_done == 0 && !history.is_empty(),
            None => history.len() >= self.recipe.training.epochs,
        };
        self.progress.stopped || at_end
    }

    /// Agrees on the signal of all ranks: their clocks differ, and only one may be asked to stop.
    fn signal(&self, notifier: &Notifier<'_>) -> Result<Signal> {
        let mut time = self.time_left();
        let of_first = time.as_ref().filter(|_| self.placement.ranks.is_first());
        let (share, is_up) =
            of_first.map_or((0.0, 0.0), |time| (time.share, f64::from(time.is_up)));
        let mut numbers = [
            f64::from(notifier.is_interrupted()),
            f64::from(notifier.is_stop_requested()),
            share,
            is_up,
        ];
        self.placement.ranks.all_reduce_f64(&mut numbers)?;
        let [interrupts, stops, share, is_up] = numbers;
        if let Some(time) = &mut time {
            time.share = share;
            time.is_up = is_up > 0.0;
        }
        Ok(Signal {
            interrupt: interrupts > 0.0,
            stop: stops > 0.0,
            time,
        })
    }

    /// Returns the time left for training, if there is a budget.
    fn time_left(&self) -> Option<TimeLeft> {
        let budget = self.recipe.training.budget?;
        let EpochProgress { sums, seconds, .. } = self.progress.epoch;
        let training = match (sums.samples(), self.progress.history.last()) {
            (0, None) => 0.0,
            (0, Some(last)) => 1.0 / last.images_per_second,
            (samples, _) => seconds / samples as f64,
        };
        let workload = self.workload(training);
        Some(workload.within(budget.duration(), &self.clock, &self.progress.time))
    }

    /// Returns the work ahead, at `training` seconds per image.
    fn workload(&self, training: f64) -> Workload {
        Workload {
            training,
            batch_size: self.recipe.training.batch_size,
            validation_images: self.data.validation.len(),
            bytes: 4 * self.parameters.count(),
        }
    }

    fn training_loader(&self) -> Result<Loader> {
        let config = LoaderConfig {
            batch_size: self.recipe.training.batch_size,
            seed: self.recipe.training.seed,
            shuffle: true,
            shuffle_buffer: self.recipe.data.shuffle_buffer,
            balanced: self.recipe.training.balanced_sampler,
            part: self.placement.ranks.part(),
            augmentation: Some(self.recipe.data.augmentation),
            ..LoaderConfig::default()
        };
        let preprocessing = self.data.preprocessing.clone();
        Ok(Loader::new(self.data.train.clone(), preprocessing, config)?)
    }

    /// Returns the error of a value that is not finite in the step after `steps` steps.
    fn not_finite(&self, what: &'static str, value: f64, steps: u64) -> TrainError {
        TrainError::NotFinite {
            epoch: self.progress.history.len() + 1,
            step: steps + 1,
            what,
            value,
        }
    }
}
