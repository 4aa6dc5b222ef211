//! The training loop, which can be left and entered again at any step.
//!
//! Nothing random is drawn from a running generator: augmentation is keyed by (seed, epoch, sample) and dropout by
//! (seed, step, layer), so where a run stands is a few numbers and the tensors. On the CPU a resumed run ends with the
//! same bits as one that was never interrupted.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{Device, Tensor};
use perceiver_data::{Batch, Loader, LoaderConfig, Preprocessing};
use perceiver_model::{Parameters, Perceiver, Summary, Transfer};
use perceiver_ops::{Key, Mode};

use crate::averaging::Averaging;
use crate::batch_pass::{BatchPass, BatchResult};
use crate::checkpoint::{Checkpoint, write_weights};
use crate::checkpoint_config::{CheckpointConfig, DataCard};
use crate::clock::{Clock, TestAhead, TimeLeft, TimeSpent, Workload};
use crate::diagnosis::{Diagnosis, ModelDiagnosis};
use crate::early_stopping::{EarlyStopping, Verdict};
use crate::error::{Result, TrainError};
use crate::evaluation::evaluate;
use crate::forecast::{Forecast, Trial};
use crate::loss::Targets;
use crate::metrics::Metrics;
use crate::observer::{EpochMetrics, Event, Observer};
use crate::optimizer::{Optimizer, OptimizerState};
use crate::plateau::Plateau;
use crate::progress::{self, EpochProgress, Format, Progress, Saved, StateTensors};
use crate::recipe::Recipe;
use crate::run_directory::RunDirectory;
use crate::schedule::{End, Position, ScheduleName};
use crate::settled;
use crate::training_data::TrainingData;
use crate::views::Views;
use crate::watchdog::Watchdog;

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

/// What changes in the course of a run.
struct State {
    parameters: Parameters,
    optimizer: OptimizerState,
    /// The weights of the best epoch so far; none before the first epoch ends.
    best: HashMap<String, Tensor>,
    averages: HashMap<String, Tensor>,
    progress: Progress,
}

/// A run: a recipe at work on data, in a directory.
pub struct Trainer {
    recipe: Recipe,
    data: TrainingData,
    device: Device,
    run: RunDirectory,
    parameters: Parameters,
    model: Perceiver,
    optimizer: Box<dyn Optimizer>,
    averaging: Option<Averaging>,
    best: HashMap<String, Tensor>,
    progress: Progress,
    /// When the state was last saved or read.
    saved: Instant,
    clock: Clock,
    watchdog: Watchdog,
    summary: Summary,
}

impl Trainer {
    /// Begins a run: makes its directory, and puts the recipe and the checkpoint's configuration there.
    ///
    /// The head gets as many classes as the data has.
    ///
    /// # Errors
    /// When the directory cannot be made, the recipe does not fit the data, or it names a checkpoint to begin with.
    pub fn start(
        mut recipe: Recipe,
        data: TrainingData,
        run: RunDirectory,
        device: Device,
    ) -> Result<Self> {
        if let Some(initial) = &recipe.training.init_from {
            return Err(TrainError::Recipe {
                name: "of a run that starts with fresh weights".to_string(),
                finding: format!(
                    "training.init_from: expected none, found {}",
                    initial.checkpoint
                ),
            });
        }
        let parameters = Self::fresh(&mut recipe, &data, &device)?;
        Self::with_parameters(recipe, data, run, device, parameters)
    }

    /// Begins a run as [`Trainer::start`] does, but with the weights of a checkpoint, which [`Recipe::begin_with`] has settled. Where the
    /// data's classes are not the checkpoint's, the head is fresh, from the recipe's seed. Says what became of the weights.
    ///
    /// The first state is saved at once, so that the run goes on without the checkpoint.
    ///
    /// # Errors
    /// As for [`Trainer::start`], and when the recipe's model cannot have these weights.
    pub fn start_from(
        checkpoint: &Checkpoint,
        mut recipe: Recipe,
        data: TrainingData,
        run: RunDirectory,
        device: Device,
    ) -> Result<(Self, Transfer)> {
        let fresh = Self::fresh(&mut recipe, &data, &device)?;
        let transfer = checkpoint.weights_for(&recipe.model, data.train.classes(), &fresh)?;
        let parameters = transfer.parameters.clone();
        let mut trainer = Self::with_parameters(recipe, data, run, device, parameters)?;
        trainer.save()?;
        Ok((trainer, transfer))
    }

    /// Makes the head as wide as the data has classes, and first values from the seed.
    fn fresh(recipe: &mut Recipe, data: &TrainingData, device: &Device) -> Result<Parameters> {
        let model = std::mem::take(&mut recipe.model);
        recipe.model = model.with_num_classes(data.train.classes().len());
        let seed = recipe.training.seed;
        Ok(Parameters::from_seed(&recipe.model, seed, device)?)
    }

    fn with_parameters(
        recipe: Recipe,
        data: TrainingData,
        run: RunDirectory,
        device: Device,
        parameters: Parameters,
    ) -> Result<Self> {
        let progress = Progress {
            format: Format,
            recipe: settled::settled(&recipe)?,
            train_sha256: data.sha256.clone(),
            steps: 0,
            learning_rate: recipe.training.learning_rate,
            plateau: Plateau::new(recipe.training.plateau),
            early_stopping: EarlyStopping::new(recipe.training.early_stopping.patience),
            history: Vec::new(),
            epoch: EpochProgress::default(),
            stopped: false,
            time: TimeSpent::default(),
        };
        run.make()?;
        recipe.write(&run.recipe())?;
        Self::checkpoint_config(&recipe, &data).write(&run.config())?;
        let state = State {
            parameters,
            optimizer: OptimizerState::default(),
            best: HashMap::new(),
            averages: HashMap::new(),
            progress,
        };
        Self::assemble(recipe, data, run, device, state)
    }

    /// Goes on with a run from its last saved state, or from its beginning if it has none.
    ///
    /// # Errors
    /// When the state is damaged, does not fit the recipe, or is gone, or `data` is not what the run began with. Nothing on
    /// the disk has changed then.
    pub fn resume(
        recipe: Recipe,
        data: TrainingData,
        run: RunDirectory,
        device: Device,
    ) -> Result<Self> {
        let state = run.state();
        if !state.exists() {
            run.require_nothing_saved()?;
            if let Some(initial) = &recipe.training.init_from {
                return Err(TrainError::Damaged {
                    path: state,
                    expected: format!("the state of a run that began with {}", initial.checkpoint),
                    finding: "no such file, and nothing learned yet".to_string(),
                });
            }
            run.remove_leftovers()?;
            return Self::start(recipe, data, run, device);
        }
        let trainer = Self::read(recipe, data, run, device, &state)?;
        trainer.write_derived()?;
        Ok(trainer)
    }

    /// Goes on with a run from the state before the last, where that is damaged. The last is put aside, to the path returned.
    ///
    /// # Errors
    /// As for [`Trainer::resume`].
    pub fn resume_from_previous(
        recipe: Recipe,
        data: TrainingData,
        run: RunDirectory,
        device: Device,
    ) -> Result<(Self, Option<PathBuf>)> {
        let previous = run.previous_state();
        let trainer = Self::read(recipe, data, run, device, &previous)?;
        let aside = trainer.run.go_back()?;
        trainer.write_derived()?;
        Ok((trainer, aside))
    }

    /// A run as it stands in the state at `path`; changes nothing.
    fn read(
        recipe: Recipe,
        data: TrainingData,
        run: RunDirectory,
        device: Device,
        path: &Path,
    ) -> Result<Self> {
        let Saved {
            progress,
            parameters,
            tensors,
        } = progress::read(&run, path, &recipe, &device)?;
        if progress.train_sha256 != data.sha256 {
            return Err(TrainError::OtherData {
                name: data.train.name().to_string(),
                expected: progress.train_sha256,
                found: data.sha256,
            });
        }
        let state = State {
            parameters,
            optimizer: OptimizerState {
                steps: progress.steps,
                tensors: tensors.optimizer,
            },
            best: tensors.best,
            averages: tensors.averages,
            progress,
        };
        Self::assemble(recipe, data, run, device, state)
    }

    /// Writes what is made from state, recipe and data, and removes what a killed program has left half written.
    fn write_derived(&self) -> Result<()> {
        self.run.remove_leftovers()?;
        Self::checkpoint_config(&self.recipe, &self.data).write(&self.run.config())?;
        self.write_best()
    }

    /// Lets the run have `epochs` epochs, whatever time they take, also one that has ended: `recipe.toml` says so from now on, and a run that was
    /// stopped early goes on, its patience counted anew. Schedules that depend on a run's length take the new one.
    ///
    /// # Errors
    /// When so many are done already, or a file cannot be written.
    pub fn extend(&mut self, epochs: usize) -> Result<()> {
        let done = self.progress.history.len();
        if epochs <= done {
            return Err(TrainError::TooFewEpochs {
                done,
                found: epochs,
            });
        }
        let path = self.run.recipe();
        let mut kept = Recipe::read(&path)?;
        kept.training.epochs = epochs;
        kept.training.budget = None;
        kept.validate("with --epochs")?;
        kept.write(&path)?;
        self.recipe.training.epochs = epochs;
        self.recipe.training.budget = None;
        if self.progress.stopped {
            self.progress.stopped = false;
            self.progress.early_stopping.wait_anew();
            self.save()?;
        }
        Ok(())
    }

    fn assemble(
        recipe: Recipe,
        data: TrainingData,
        run: RunDirectory,
        device: Device,
        state: State,
    ) -> Result<Self> {
        let State {
            parameters,
            optimizer: moments,
            best,
            averages,
            progress,
        } = state;
        let model = parameters
            .model(&recipe.model)?
            .with_recomputation(recipe.training.recompute);
        let training = &recipe.training;
        let mut optimizer = training.optimizer.build(progress.learning_rate);
        let averaging = training
            .averaging
            .map(|decay| Averaging::new(decay, averages));
        optimizer.restore(moments);
        let clock = Clock {
            since: Instant::now(),
            before: progress.time.seconds,
            test: TestAhead::default(),
        };
        let steps_per_epoch = data.train.len().div_ceil(training.batch_size);
        let watchdog = Watchdog::new(&recipe, steps_per_epoch);
        let summary = Summary::new(&recipe.model)?;
        Ok(Self {
            recipe,
            data,
            device,
            run,
            parameters,
            model,
            optimizer,
            averaging,
            best,
            progress,
            saved: Instant::now(),
            clock,
            watchdog,
            summary,
        })
    }

    /// The same run, its budget counted from `since`, with room for a test; else it counts from when the trainer was made, and no
    /// test follows.
    #[must_use]
    pub fn timed(mut self, since: Instant, test: TestAhead) -> Self {
        self.clock.since = since;
        self.clock.test = test;
        self
    }

    fn checkpoint_config(recipe: &Recipe, data: &TrainingData) -> CheckpointConfig {
        let card = DataCard {
            dataset: Some(recipe.data.dataset.clone()),
            labels: recipe.data.labels,
            train_images: data.len(),
            train_sha256: data.sha256.clone(),
            seed: recipe.training.seed,
            limit_test: recipe.data.limit_test,
            flip_average: recipe.data.flip_average,
        };
        let classes = data.train.classes().to_vec();
        CheckpointConfig::new(
            recipe.model.clone(),
            data.preprocessing.clone(),
            classes,
            card,
        )
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

    /// The device the model is on.
    pub fn device(&self) -> &Device {
        &self.device
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
        let trial = Trial {
            pass: self.pass(&batch?)?,
            recipe: &self.recipe,
            train_images: self.data.train.len(),
            validation_images: self.data.validation.len(),
        };
        trial.forecast().map(Some)
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
        while !self.is_done() {
            if let EpochEnd::Interrupted = self.train_epoch(&loader, observer, stop)? {
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
        let Progress { history, epoch, .. } = &self.progress;
        let at_end = match self.time_left() {
            // What was begun is validated and recorded first, and there is a step at least.
            Some(time) => time.is_up && epoch.batches_done == 0 && !history.is_empty(),
            None => history.len() >= self.recipe.training.epochs,
        };
        self.progress.stopped || at_end
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
        let workload = Workload {
            training,
            batch_size: self.recipe.training.batch_size,
            validation_images: self.data.validation.len(),
            bytes: 4 * self.parameters.count(),
        };
        Some(workload.within(budget.duration(), &self.clock, &self.progress.time))
    }

    fn training_loader(&self) -> Result<Loader> {
        let config = LoaderConfig {
            batch_size: self.recipe.training.batch_size,
            seed: self.recipe.training.seed,
            shuffle: true,
            augmentation: Some(self.recipe.data.augmentation),
            ..LoaderConfig::default()
        };
        let preprocessing = self.data.preprocessing.clone();
        Ok(Loader::new(
            Arc::clone(&self.data.train),
            preprocessing,
            config,
        )?)
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
        for batch in loader.epoch(epoch, first_step) {
            if stop.load(Ordering::Relaxed) {
                return Ok(EpochEnd::Interrupted);
            }
            let is_begun = self.progress.epoch.batches_done > 0;
            if is_begun && self.time_left().is_some_and(|time| time.is_up) {
                break;
            }
            self.look_early(observer)?;
            let batch = batch?;
            let metrics = self.step(&batch)?;
            self.progress.epoch.batches_done += 1;
            self.progress.epoch.seconds = seconds_before + start.elapsed().as_secs_f64();
            observer.notice(&Event::Step {
                step: self.progress.epoch.batches_done,
                images: batch.indices.len(),
                metrics,
            })?;
            self.warn(observer)?;
            if self.is_save_due() {
                self.save()?;
            }
        }
        Ok(EpochEnd::Complete)
    }

    fn is_save_due(&self) -> bool {
        let every = self.recipe.training.checkpoint_every;
        every.is_some_and(|every| every.is_due(self.progress.steps, self.saved.elapsed()))
    }

    /// Learns from one batch and returns the epoch's means so far.
    fn step(&mut self, batch: &Batch) -> Result<Metrics> {
        let BatchResult {
            loss, gradients, ..
        } = self.gradients(batch)?;
        let norm = gradients.global_norm()?;
        if !norm.is_finite() {
            return Err(self.not_finite("gradient norm", norm));
        }
        self.watchdog.step(loss, norm);
        if self.recipe.training.diagnose {
            let sums = &mut self.progress.epoch.gradients;
            sums.add(&gradients, norm, &self.summary)?;
        }
        let gradients = match self.recipe.training.clip_norm {
            None => gradients,
            Some(max_norm) => gradients.scaled_down(norm, max_norm)?,
        };
        self.optimizer.set_learning_rate(self.scheduled_rate());
        self.optimizer.step(&self.parameters, &gradients)?;
        self.progress.steps = self.optimizer.steps();
        if let Some(averaging) = &mut self.averaging {
            averaging.update(&self.parameters, self.progress.steps)?;
        }
        Ok(self.progress.epoch.sums.means())
    }

    /// A batch's mean loss and its gradients; metrics are added up on the way.
    fn gradients(&mut self, batch: &Batch) -> Result<BatchResult> {
        let training = &self.recipe.training;
        let pass = self.pass(batch)?;
        let key = self.dropout_key();
        let mode = |start: usize| match start {
            0 => Mode::Training(key),
            _ => Mode::Training(key.fold_in_name("part").fold_in(start as u64)),
        };
        let result = pass.run(training.accumulate, training.side_by_side, mode)?;
        if !result.loss.is_finite() {
            return Err(self.not_finite("loss", result.loss));
        }
        let sums = &mut self.progress.epoch.sums;
        sums.update(&result.logits, &batch.labels)?;
        Ok(result)
    }

    /// Looks inside the model as it scores a few training pictures.
    fn look(&self) -> Result<ModelDiagnosis> {
        let images = self.data.train.images();
        let images = &images[..LOOKED_AT.min(images.len())];
        let images = self.data.preprocessing.tensor(images)?; // [few, 3, s, s]
        let model = self.parameters.inference_model(&self.recipe.model)?;
        ModelDiagnosis::of(&model, &images.to_device(&self.device)?)
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

    /// Passes on what the watchdog has found.
    fn warn(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let mut warnings = self.watchdog.warnings().into_iter();
        warnings.try_for_each(|warning| observer.notice(&Event::Warning(&warning)))
    }

    fn pass(&self, batch: &Batch) -> Result<BatchPass<'_>> {
        let smoothing = self.recipe.training.label_smoothing;
        Ok(BatchPass {
            model: &self.model,
            parameters: &self.parameters,
            images: batch.images.to_device(&self.device)?, // [batch, 3, s, s]
            targets: Targets::new(batch, smoothing, &self.device)?,
        })
    }

    /// The learning rate of the next step: what the plateau has left of it, times the schedule's factor.
    fn scheduled_rate(&self) -> f32 {
        let position = Position {
            step: self.progress.steps,
            steps_per_epoch: self.steps_per_epoch() as u64,
            end: match self.time_left() {
                None => End::Epochs(self.recipe.training.epochs as u64),
                Some(time) => End::Clock(time.share),
            },
        };
        let factor = self.recipe.training.schedule.factor(position);
        (f64::from(self.progress.learning_rate) * factor) as f32
    }

    /// What dropout is keyed by in this step.
    fn dropout_key(&self) -> Key {
        let root = Key::new(self.recipe.training.seed).fold_in_name("dropout");
        root.fold_in(self.progress.steps)
    }

    fn not_finite(&self, what: &'static str, value: f64) -> TrainError {
        TrainError::NotFinite {
            epoch: self.progress.history.len() + 1,
            step: self.progress.steps + 1,
            what,
            value,
        }
    }

    /// Validates, records the epoch, lets the callbacks decide, and saves.
    fn end_epoch(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let start = Instant::now();
        let validation = self.validate(observer)?;
        if !validation.loss.is_finite() {
            return Err(self.not_finite("validation loss", validation.loss));
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
        self.warn(observer)?;
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

    fn validate(&self, observer: &mut dyn Observer) -> Result<Metrics> {
        let mut noticed = Ok(());
        let mut tell = |done, total| {
            if noticed.is_ok() {
                noticed = observer.notice(&Event::Validation { done, total });
            }
        };
        let validation = Arc::clone(&self.data.validation);
        let preprocessing = &self.data.preprocessing;
        let parameters =
            Parameters::from_tensors(&self.recipe.model, self.weights(), &self.device)?;
        let model = parameters.inference_model(&self.recipe.model)?;
        let views = Views::Picture; // the test split alone may be judged by more
        let evaluation = evaluate(
            &model,
            views,
            validation,
            preprocessing,
            &self.device,
            &mut tell,
        )?;
        noticed.map(|()| evaluation.sums.means())
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

    /// Saves where the run stands, what was saved before staying beside it, and then the best weights as a checkpoint.
    fn save(&mut self) -> Result<()> {
        let start = Instant::now();
        self.progress.time.seconds = self.clock.spent();
        let tensors = StateTensors {
            parameters: self.parameters.tensors(),
            best: self.best.clone(),
            optimizer: self.optimizer.state()?.tensors,
            averages: self
                .averaging
                .as_ref()
                .map(|averaging| averaging.means().clone())
                .unwrap_or_default(),
        };
        self.run.keep_state()?;
        self.run.remove_results()?; // before, so that no interruption leaves them beside other weights
        progress::write(&self.run.state(), &self.progress, tensors)?;
        self.write_best()?;
        self.saved = Instant::now();
        self.progress.time.saving = Some(start.elapsed().as_secs_f64());
        Ok(())
    }

    /// The best weights so far, or in the first epoch the current ones, as `model.safetensors`.
    fn write_best(&self) -> Result<()> {
        let current;
        let weights = if self.best.is_empty() {
            current = self.weights();
            &current
        } else {
            &self.best
        };
        let named = weights.iter().map(|(name, tensor)| (name.as_str(), tensor));
        write_weights(named, &self.run.model())
    }

    /// The weights that count, the averaged ones where there are any; later steps change them where they are.
    fn weights(&self) -> HashMap<String, Tensor> {
        match &self.averaging {
            Some(averaging) if !averaging.means().is_empty() => averaging.means().clone(),
            _ => self.parameters.tensors(),
        }
    }
}

/// The same values in tensors that later steps do not change.
fn copies(weights: HashMap<String, Tensor>) -> Result<HashMap<String, Tensor>> {
    weights
        .into_iter()
        .map(|(name, tensor)| Ok((name, tensor.copy()?)))
        .collect()
}
