//! The training loop, which can be left and entered again at any step.
//!
//! Nothing random is drawn from a running generator: augmentation is keyed by (seed, epoch, sample) and dropout by
//! (seed, step, layer), so where a run stands is a few numbers and the tensors. On the CPU a resumed run ends with the
//! same bits as one that was never interrupted.

mod beginning;
mod learning;
mod reading;
mod saving;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{Device, Tensor};
use perceiver_data::{Batch, Loader, LoaderConfig, Preprocessing};
use perceiver_model::{Parameters, Perceiver, Summary};
use perceiver_ops::Upload;

use crate::agreement::require_agreement;
use crate::ahead::ahead;
use crate::averaging::Averaging;
use crate::budget::Budget;
use crate::clock::{Clock, TestAhead, TimeLeft, TimeSpent, Workload};
use crate::diagnosis::{Diagnosis, ModelDiagnosis};
use crate::early_stopping::Verdict;
use crate::error::{Result, TrainError};
use crate::evaluation::measure;
use crate::exchange::Exchange;
use crate::forecast::{Forecast, Trial};
use crate::metrics::Metrics;
use crate::observer::{EpochMetrics, Event, Observer};
use crate::optimizer::Optimizer;
use crate::progress::{EpochProgress, Progress};
use crate::ranks::Workplace;
use crate::recipe::Recipe;
use crate::run_directory::RunDirectory;
use crate::schedule::{End, Position, ScheduleName};
use crate::training_data::TrainingData;
use crate::views::Views;
use crate::watchdog::Watchdog;
use crate::working_copy::WorkingCopy;
use reading::{Norm, Unread};

/// The training pictures that the watchdog looks at, and the steps after which it does, the start and the ends of epochs aside.
const LOOKED_AT: usize = 8;
const EARLY_LOOKS: [u64; 2] = [10, 100];

/// How a call of [`Trainer::fit`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All epochs are done, or the time is up, or early stopping ended the run; the model has the best weights.
    Finished,
    /// The run was asked to stop and has saved where it stands.
    Interrupted,
}

/// Whether an epoch was gone through or left in the middle.
enum EpochEnd {
    Complete,
    Interrupted,
}

/// What the ranks agree upon before a step.
struct Signal {
    /// Whether any was asked to stop.
    stop: bool,
    /// How the time for training stands, by the first one's clock.
    time: Option<TimeLeft>,
}

/// A run: a recipe at work on data, in a directory.
pub struct Trainer {
    recipe: Recipe,
    data: TrainingData,
    place: Workplace,
    exchange: Exchange,
    run: RunDirectory,
    parameters: Parameters,
    model: Perceiver,
    working: WorkingCopy,
    /// What copies targets to the device.
    upload: Mutex<Upload>,
    optimizer: Box<dyn Optimizer>,
    averaging: Option<Averaging>,
    best: HashMap<String, Tensor>,
    progress: Progress,
    /// What steps have found that was not read yet.
    unread: Vec<Unread>,
    /// The steps after which they are.
    read_after: usize,
    /// When the state was last saved or read.
    saved: Instant,
    clock: Clock,
    watchdog: Watchdog,
    summary: Summary,
}

impl Trainer {
    /// The same run, its budget counted from `since`, with room for a test; else it counts from when the trainer was made, and no
    /// test follows.
    #[must_use]
    pub fn timed(mut self, since: Instant, test: TestAhead) -> Self {
        self.clock.since = since;
        self.clock.test = test;
        self
    }

    /// The recipe, with the head as wide as the data has classes.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The model as it stands.
    pub fn model(&self) -> &Perceiver {
        &self.model
    }

    /// The model's parameters as they stand.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// How pictures become the model's input.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.data.preprocessing
    }

    /// What the run learns from.
    pub fn data(&self) -> &TrainingData {
        &self.data
    }

    /// The device the model is on.
    pub fn device(&self) -> &Device {
        &self.place.device
    }

    /// Where the run is computed, and with whom.
    pub fn place(&self) -> &Workplace {
        &self.place
    }

    /// The training images, validation included.
    pub fn images(&self) -> usize {
        self.data.len()
    }

    /// Steps in a whole epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.data
            .train
            .len()
            .div_ceil(self.recipe.training.batch_size)
    }

    /// The directory of the run.
    pub fn run(&self) -> &RunDirectory {
        &self.run
    }

    /// What an epoch will take, measured on the first batch; nothing of the run changes.
    ///
    /// # Errors
    /// When a picture cannot be read or the device has no room.
    pub fn forecast(&self) -> Result<Option<Forecast>> {
        let Some(batch) = self.training_loader()?.epoch(0, 0).next() else {
            return Ok(None);
        };
        let batch = batch?;
        if batch.indices.is_empty() {
            return Ok(None);
        }
        let ranks = self.place.ranks.size();
        let model = self.working.model(&self.parameters)?;
        let trial = Trial {
            pass: self.pass(model, &batch, batch.indices.len())?,
            recipe: &self.recipe,
            train_images: self.data.train.len().div_ceil(ranks),
            validation_images: self.data.validation.len().div_ceil(ranks),
        };
        trial.forecast().map(Some)
    }

    /// The least budget, in whole seconds, that has room for a step, its validation, saving and the test, in a run that has none of that yet
    /// and of which a forecast was made. One that is shorter will be exceeded.
    pub fn least_budget(&self, forecast: &Forecast) -> Budget {
        let ranks = self.place.ranks.size() as f64;
        let inference = forecast.inference_seconds / ranks;
        let workload = self.workload(forecast.training_seconds / ranks);
        let time = TimeSpent {
            validation: Some(inference * workload.validation_images as f64),
            ..self.progress.time
        };
        Budget::of_seconds(workload.least(&self.clock, &time))
    }

    /// The epochs done so far.
    pub fn history(&self) -> &[EpochMetrics] {
        &self.progress.history
    }

    /// Trains to the end, or until `stop` is set: then the step at hand is finished and all is saved.
    ///
    /// # Errors
    /// When the loss or the gradients are no finite numbers, a file cannot be written, or an observer fails. What was saved last stays.
    pub fn fit(&mut self, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Outcome> {
        let loader = self.training_loader()?;
        let history = &self.progress.history;
        observer.notice(&Event::Started { history })?;
        if self.progress.steps == 0 {
            self.progress.time.lead_in = self.clock.spent();
        }
        while !self.is_at_end(self.signal(stop)?.time) {
            if let EpochEnd::Interrupted = self.train_epoch(&loader, observer, stop)? {
                self.settle()?;
                self.save()?;
                let run = self.run.root();
                observer.notice(&Event::Interrupted { run })?;
                return Ok(Outcome::Interrupted);
            }
            self.end_epoch(observer)?;
        }
        if !self.best.is_empty() {
            self.parameters.assign(&self.best)?;
        }
        Ok(Outcome::Finished)
    }

    /// Whether there is nothing left to do.
    pub fn is_done(&self) -> bool {
        self.is_at_end(self.time_left())
    }

    fn is_at_end(&self, time: Option<TimeLeft>) -> bool {
        let Progress { history, epoch, .. } = &self.progress;
        let at_end = match time {
            // What was begun is validated and recorded first, and there is a step at least.
            Some(time) => time.is_up && epoch.batches_done == 0 && !history.is_empty(),
            None => history.len() >= self.recipe.training.epochs,
        };
        self.progress.stopped || at_end
    }

    /// What all ranks go by: each would see another time, and perhaps be asked alone to stop.
    fn signal(&self, stop: &AtomicBool) -> Result<Signal> {
        let mut time = self.time_left();
        let of_first = time.as_ref().filter(|_| self.place.ranks.is_first());
        let (share, is_up) =
            of_first.map_or((0.0, 0.0), |time| (time.share, f64::from(time.is_up)));
        let mut numbers = [f64::from(stop.load(Ordering::Relaxed)), share, is_up];
        self.place.ranks.all_reduce_f64(&mut numbers)?;
        let [stops, share, is_up] = numbers;
        if let Some(time) = &mut time {
            time.share = share;
            time.is_up = is_up > 0.0;
        }
        Ok(Signal {
            stop: stops > 0.0,
            time,
        })
    }

    /// How the time for training stands, if there is a budget.
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

    /// What is to be done, where training takes so many seconds an image.
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
            part: self.place.ranks.part(),
            augmentation: Some(self.recipe.data.augmentation),
            ..LoaderConfig::default()
        };
        let preprocessing = self.data.preprocessing.clone();
        Ok(Loader::new(self.data.train.clone(), preprocessing, config)?)
    }

    fn train_epoch(
        &mut self,
        loader: &Loader,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
    ) -> Result<EpochEnd> {
        let epoch = self.progress.history.len();
        let first_step = self.progress.epoch.batches_done;
        observer.notice(&Event::EpochStarted {
            epoch: epoch + 1,
            epochs: match self.recipe.training.budget {
                None => Some(self.recipe.training.epochs),
                Some(_) => None,
            },
            first_step,
            steps: loader.batches_per_epoch(),
        })?;
        let seconds_before = self.progress.epoch.seconds;
        let start = Instant::now();
        for batch in ahead(loader.epoch(epoch, first_step), &self.place.device) {
            let signal = self.signal(stop)?;
            if signal.stop {
                return Ok(EpochEnd::Interrupted);
            }
            let is_begun = self.progress.epoch.batches_done > 0;
            if is_begun && signal.time.is_some_and(|time| time.is_up) {
                break;
            }
            self.look_early(observer)?;
            let batch = batch?;
            let images = self.images_of_batch(self.progress.epoch.batches_done);
            let metrics = self.step(&batch, images, signal.time)?;
            self.progress.epoch.batches_done += 1;
            if self.unread.is_empty() {
                self.progress.epoch.seconds = seconds_before + start.elapsed().as_secs_f64();
            }
            observer.notice(&Event::Step {
                step: self.progress.epoch.batches_done,
                images,
                metrics,
            })?;
            self.warn(observer)?;
            if self.is_save_due() {
                self.settle()?;
                self.save()?;
            }
        }
        if !self.unread.is_empty() {
            self.settle()?;
            self.progress.epoch.seconds = seconds_before + start.elapsed().as_secs_f64();
        }
        Ok(EpochEnd::Complete)
    }

    /// Pictures in a whole batch of an epoch; the last may have fewer.
    fn images_of_batch(&self, index: usize) -> usize {
        let size = self.recipe.training.batch_size;
        size.min(self.data.train.len() - index * size)
    }

    /// Learns from a batch of so many `images`, of which `part` is this rank's, and returns the epoch's means so far.
    fn step(&mut self, part: &Batch, images: usize, time: Option<TimeLeft>) -> Result<Metrics> {
        let (result, gradients) = self.gradients(part, images)?;
        let norm = self.norm(&gradients)?;
        let steps = self.progress.steps;
        let unread = Unread::new(result, part, images, steps, norm.clone());
        self.unread.push(unread);
        if self.is_reading_due() {
            self.settle()?;
        }
        if let (Norm::Known(norm), true) = (&norm, self.recipe.training.diagnose) {
            let sums = &mut self.progress.epoch.gradients;
            sums.add(&gradients, *norm, &self.summary)?;
        }
        let gradients = self.clipped(gradients, &norm)?;
        self.optimizer.set_learning_rate(self.scheduled_rate(time));
        self.optimizer.step(&self.parameters, &gradients)?;
        self.progress.steps = self.optimizer.steps();
        if let Some(averaging) = &mut self.averaging {
            averaging.update(&self.parameters, self.progress.steps)?;
        }
        Ok(self.progress.epoch.sums.means())
    }

    /// Looks inside the model as it scores a few training pictures, of which each rank takes its part.
    fn look(&self) -> Result<ModelDiagnosis> {
        let train = &self.data.train;
        let all = LOOKED_AT.min(train.len());
        let part = self.place.ranks.part().range(all);
        let share = part.len() as f64 / all as f64;
        let seen = if part.is_empty() { 0..1 } else { part }; // the first counts for nothing there
        let images = seen.map(|index| train.image(index));
        let images = images.collect::<perceiver_data::Result<Vec<_>>>()?;
        let images = self.data.preprocessing.tensor(&images)?; // [few, 3, s, s]
        let model = self.parameters.inference_model(&self.recipe.model)?;
        let seen = ModelDiagnosis::of(&model, &images.to_device(&self.place.device)?)?;
        seen.of_all(&*self.place.ranks, share)
    }

    /// Lets the watchdog see the model at the start and at some early steps.
    fn look_early(&mut self, observer: &mut dyn Observer) -> Result<()> {
        match self.progress.steps {
            0 => self.watchdog.starts(&self.look()?),
            steps if EARLY_LOOKS.contains(&steps) => self.watchdog.goes_on(&self.look()?),
            _ => return Ok(()),
        }
        self.warn(observer)
    }

    /// Passes on what the watchdog has found, and keeps it for the epoch's metrics.
    fn warn(&mut self, observer: &mut dyn Observer) -> Result<()> {
        for warning in self.watchdog.warnings() {
            observer.notice(&Event::Warning(&warning))?;
            self.progress.epoch.warnings.push(warning);
        }
        Ok(())
    }

    /// The learning rate of the next step: what the plateau has left of it, times the schedule's factor.
    fn scheduled_rate(&self, time: Option<TimeLeft>) -> f32 {
        let position = Position {
            step: self.progress.steps,
            steps_per_epoch: self.steps_per_epoch() as u64,
            end: match time {
                None => End::Epochs(self.recipe.training.epochs as u64),
                Some(time) => End::Clock(time.share),
            },
        };
        let factor = self.recipe.training.schedule.factor(position);
        (f64::from(self.progress.learning_rate) * factor) as f32
    }

    /// What was no number in the step that came after so many.
    fn not_finite(&self, what: &'static str, value: f64, steps: u64) -> TrainError {
        TrainError::NotFinite {
            epoch: self.progress.history.len() + 1,
            step: steps + 1,
            what,
            value,
        }
    }

    /// Validates, records the epoch, lets the callbacks decide, and saves.
    fn end_epoch(&mut self, observer: &mut dyn Observer) -> Result<()> {
        self.require_same_weights()?;
        let start = Instant::now();
        let validation = self.validate(observer)?;
        if !validation.loss.is_finite() {
            return Err(self.not_finite("validation loss", validation.loss, self.progress.steps));
        }
        let seconds = start.elapsed().as_secs_f64();
        self.progress.time.validation = Some(seconds);
        let mut metrics = self.epoch_metrics(validation, seconds);
        let look = self.look()?;
        self.watchdog.epoch_ended(metrics.epoch, &look);
        if self.recipe.training.diagnose {
            metrics.diagnosis = Some(Diagnosis {
                gradients: self.progress.epoch.gradients.diagnosis(),
                model: look,
            });
        }
        let found = self.watchdog.warnings();
        metrics.warnings = std::mem::take(&mut self.progress.epoch.warnings);
        metrics.warnings.extend(found.iter().cloned());
        self.progress.history.push(metrics);
        self.progress.epoch = EpochProgress::default();

        let val_loss = validation.loss;
        let verdict = self.progress.early_stopping.epoch_ended(val_loss);
        if verdict == Verdict::Best {
            self.best = copies(self.weights())?;
        }
        let (from, to) = self.reduce_learning_rate(val_loss);
        self.progress.stopped = verdict == Verdict::Stop;
        self.save()?;

        let history = &self.progress.history;
        let best = verdict == Verdict::Best;
        observer.notice(&Event::EpochEnded { history, best })?;
        let mut found = found.iter();
        found.try_for_each(|warning| observer.notice(&Event::Warning(warning)))?;
        if from > to {
            observer.notice(&Event::LearningRateReduced { from, to })?;
        }
        if self.progress.stopped {
            let best_epoch = self
                .progress
                .early_stopping
                .best_epoch()
                .map_or(0, |epoch| epoch + 1);
            observer.notice(&Event::StoppedEarly { best_epoch })?;
        }
        Ok(())
    }

    /// Ranks that learn from the same sums have the same weights, unless a machine or a network errs.
    fn require_same_weights(&self) -> Result<()> {
        if self.place.ranks.size() == 1 {
            return Ok(());
        }
        let epoch = self.progress.history.len() + 1;
        let name = format!("weights after epoch {epoch} with a CRC of");
        let mut crc = 0;
        for (_, variable) in self.parameters.iter() {
            let values = variable.flatten_all()?.to_vec1::<f32>()?;
            for value in values {
                crc = crc32c::crc32c_append(crc, &value.to_le_bytes());
            }
        }
        require_agreement(
            &*self.place.ranks,
            &[(name, i64::from(crc).into())].into_iter().collect(),
        )
    }

    fn validate(&self, observer: &mut dyn Observer) -> Result<Metrics> {
        let mut noticed = Ok(());
        let mut tell = |done, total| {
            if noticed.is_ok() {
                noticed = observer.notice(&Event::Validation { done, total });
            }
        };
        let preprocessing = &self.data.preprocessing;
        let parameters =
            Parameters::from_tensors(&self.recipe.model, self.weights(), &self.place.device)?;
        let dtype = self.recipe.training.precision.dtype();
        let model = parameters.inference_model_in(&self.recipe.model, dtype)?;
        let views = Views::Picture; // the test split alone may be judged by more
        let sums = measure(
            &model,
            views,
            &self.data.validation,
            preprocessing,
            &self.place,
            &mut tell,
        )?;
        noticed?;
        Ok(sums.means())
    }

    fn epoch_metrics(&self, validation: Metrics, validation_seconds: f64) -> EpochMetrics {
        let EpochProgress { sums, seconds, .. } = self.progress.epoch;
        let training = sums.means();
        EpochMetrics {
            epoch: self.progress.history.len() + 1,
            loss: training.loss,
            acc: training.acc,
            top5_acc: training.top5_acc,
            val_loss: validation.loss,
            val_acc: validation.acc,
            val_top5_acc: validation.top5_acc,
            learning_rate: self.optimizer.learning_rate(),
            seconds: seconds + validation_seconds,
            images_per_second: sums.samples() as f64 / seconds,
            diagnosis: None,
            warnings: Vec::new(),
        }
    }

    /// The learning rate before and after the plateau schedule has seen a validation loss.
    fn reduce_learning_rate(&mut self, val_loss: f64) -> (f32, f32) {
        let from = self.progress.learning_rate;
        if self.recipe.training.schedule.name == ScheduleName::Plateau {
            self.progress.learning_rate = self.progress.plateau.epoch_ended(val_loss, from);
        }
        (from, self.progress.learning_rate)
    }
}

/// The same values in tensors that later steps do not change.
fn copies(weights: HashMap<String, Tensor>) -> Result<HashMap<String, Tensor>> {
    weights
        .into_iter()
        .map(|(name, tensor)| Ok((name, tensor.copy()?)))
        .collect()
}
