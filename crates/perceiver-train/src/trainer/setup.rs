//! Trainer setup: a new run, a resumed one, or one with more epochs.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use candle_core::Tensor;
use perceiver_model::{Architecture, Parameters, Summary, Transfer};
use perceiver_ops::Upload;

use crate::checkpoint::Checkpoint;
use crate::data::TrainingData;
use crate::diagnostics::step_history::StepHistory;
use crate::diagnostics::watchdog::{Memory, Watchdog};
use crate::distributed::Placement;
use crate::distributed::all_reduce::GradientAllReduce;
use crate::distributed::consistency::{Facts, require_agreement};
use crate::error::{Result, TrainError};
use crate::lr_schedule::reduce_on_plateau::Plateau;
use crate::optim::OptimizerState;
use crate::optim::ema::Ema;
use crate::recipe::{ClassWeighting, Recipe};
use crate::recipe::{field_names, resume_check};
use crate::run::directory::RunDirectory;
use crate::trainer::Trainer;
use crate::trainer::custom_parts::CustomParts;
use crate::trainer::early_stopping::EarlyStopping;
use crate::trainer::estimate::require_memory;
use crate::trainer::freezing;
use crate::trainer::timer::{Clock, TestReserve, TimeSpent};
use crate::trainer::training_state::{self, EpochProgress, Format, Progress, Saved};
use crate::trainer::watch::Histograms;

/// The part of a trainer that changes during a run.
struct State {
    parameters: Parameters,
    optimizer: OptimizerState,
    /// The weights of the best epoch; empty before the first epoch ends.
    best: HashMap<String, Tensor>,
    ema: HashMap<String, Tensor>,
    progress: Progress,
}

impl Trainer {
    /// Starts a run: creates its directory, with the recipe and the checkpoint's configuration.
    ///
    /// The head gets the data's number of classes. All ranks have to call this, with the same
    /// recipe and data.
    ///
    /// # Errors
    /// When the directory cannot be created, holds a run, or is in use by another process; when the
    /// recipe does not fit the data or the memory, or names an initial checkpoint.
    pub fn start(
        mut recipe: Recipe,
        data: TrainingData,
        run: RunDirectory,
        placement: impl Into<Placement>,
    ) -> Result<Self> {
        let placement = placement.into();
        if let Some(initial) = &recipe.training.init_from {
            return Err(TrainError::Recipe {
                name: "of a run that starts with fresh weights".to_string(),
                finding: format!(
                    "training.init_from: expected none, found {}",
                    initial.checkpoint
                ),
            });
        }
        let parameters = Self::fresh(&mut recipe, &data, &placement)?;
        let run = Self::new_directory(run, &placement)?;
        Self::with_parameters(recipe, data, run, placement, parameters)
    }

    /// Starts a run like [`Trainer::start`], but with the weights of a checkpoint, which
    /// [`Recipe::initialize_from`] has set. If the data's classes differ from the checkpoint's, the head
    /// is freshly initialized from the recipe's seed. Also returns what became of the weights.
    ///
    /// The first state is saved at once, so that the run can resume without the checkpoint.
    ///
    /// # Errors
    /// As for [`Trainer::start`], and when the recipe's model cannot use these weights.
    pub fn start_from(
        checkpoint: &Checkpoint,
        mut recipe: Recipe,
        data: TrainingData,
        run: RunDirectory,
        placement: impl Into<Placement>,
    ) -> Result<(Self, Transfer)> {
        let placement = placement.into();
        let fresh = Self::fresh(&mut recipe, &data, &placement)?;
        let run = Self::new_directory(run, &placement)?;
        let transfer = checkpoint.weights_for(&recipe.model, data.train.classes(), &fresh)?;
        let parameters = transfer.parameters.clone();
        let mut trainer = Self::with_parameters(recipe, data, run, placement, parameters)?;
        trainer.save()?;
        Ok((trainer, transfer))
    }

    /// Creates the directory of a new run; rank 0 locks it for all.
    fn new_directory(run: RunDirectory, placement: &Placement) -> Result<RunDirectory> {
        if placement.ranks.is_first() {
            run.locked_for_a_new_run()
        } else {
            Ok(run)
        }
    }

    /// Opens the directory of an existing run; rank 0 locks it for all.
    fn directory(run: RunDirectory, placement: &Placement) -> Result<RunDirectory> {
        if placement.ranks.is_first() {
            run.locked()
        } else {
            Ok(run)
        }
    }

    /// Sets the number of classes from the data, and draws initial weights from the seed.
    fn fresh(
        recipe: &mut Recipe,
        data: &TrainingData,
        placement: &Placement,
    ) -> Result<Parameters> {
        let model = std::mem::take(&mut recipe.model);
        recipe.model = model.with_num_classes(data.train.classes().len());
        recipe.model.validate()?; // again, with the new number of classes
        if placement.device.is_cpu() {
            let batch = data.train.len().min(recipe.training.batch_size);
            require_memory(recipe, batch.div_ceil(placement.ranks.size()))?;
        }
        let seed = recipe.training.seed;
        Ok(Parameters::from_seed(
            &recipe.model,
            seed,
            &placement.device,
        )?)
    }

    fn with_parameters(
        mut recipe: Recipe,
        data: TrainingData,
        run: RunDirectory,
        placement: Placement,
        parameters: Parameters,
    ) -> Result<Self> {
        recipe.data.dataset = data.source.clone();
        let progress = Progress {
            format: Format,
            recipe: resume_check::fixed_fields(&recipe)?,
            train_sha256: data.sha256.clone(),
            steps: 0,
            stage_start: 0,
            learning_rate: recipe.training.learning_rate,
            plateau: Plateau::new(recipe.training.plateau),
            early_stopping: EarlyStopping::new(recipe.training.early_stopping.patience),
            history: Vec::new(),
            epoch: EpochProgress::default(),
            stopped: false,
            parts: BTreeMap::new(),
            done: false,
            time: TimeSpent::default(),
            step_history: StepHistory::default(),
            watchdog: Memory::default(),
        };
        require_agreement(&*placement.ranks, &facts(&progress)?)?;
        if placement.ranks.is_first() {
            recipe.write(&run.recipe())?;
            data.surveys.write(&run.surveys())?;
            Self::checkpoint_config(&recipe, &data).write(&run.config())?;
        }
        let state = State {
            parameters,
            optimizer: OptimizerState::default(),
            best: HashMap::new(),
            ema: HashMap::new(),
            progress,
        };
        Self::assemble(recipe, data, run, placement, state)
    }

    /// Resumes a run from its last saved state, or from its beginning if it has none.
    ///
    /// # Errors
    /// When another process or trainer uses the run; when the state is damaged, missing or does not
    /// match the recipe; or when `data` is not the data that the run started with. Nothing on the
    /// disk has changed then.
    pub fn resume(
        recipe: Recipe,
        data: TrainingData,
        run: RunDirectory,
        placement: impl Into<Placement>,
    ) -> Result<Self> {
        let placement = placement.into();
        let run = Self::directory(run, &placement)?;
        let state = run.state();
        if !state.exists() {
            run.require_nothing_saved()?;
            if let Some(initial) = &recipe.training.init_from {
                return Err(TrainError::Damaged {
                    path: state,
                    expected: format!(
                        "the training state of a run initialized from {}",
                        initial.checkpoint
                    ),
                    finding: "no such file, and nothing saved yet".to_string(),
                });
            }
            if placement.ranks.is_first() {
                run.remove_leftovers()?;
            }
            return Self::start(recipe, data, run, placement);
        }
        let trainer = Self::read(recipe, data, run, placement, &state)?;
        trainer.write_derived()?;
        Ok(trainer)
    }

    /// Resumes a run from the previous state, if the last one is damaged. The damaged state is
    /// moved to the returned path.
    ///
    /// # Errors
    /// As for [`Trainer::resume`].
    pub fn resume_from_previous(
        recipe: Recipe,
        data: TrainingData,
        run: RunDirectory,
        placement: impl Into<Placement>,
    ) -> Result<(Self, Option<PathBuf>)> {
        let placement = placement.into();
        let run = Self::directory(run, &placement)?;
        let previous = run.previous_state();
        let trainer = Self::read(recipe, data, run, placement, &previous)?;
        let aside = if trainer.placement.ranks.is_first() {
            trainer.run.go_back()?
        } else {
            None
        };
        trainer.write_derived()?;
        Ok((trainer, aside))
    }

    /// Reads a run from the state at `path`; changes nothing.
    fn read(
        mut recipe: Recipe,
        data: TrainingData,
        run: RunDirectory,
        placement: Placement,
        path: &Path,
    ) -> Result<Self> {
        let Saved {
            progress,
            parameters,
            tensors,
        } = training_state::read(&run, path, &recipe, &placement.device)?;
        if progress.train_sha256 != data.sha256 {
            return Err(TrainError::OtherData {
                name: data.train.name().to_string(),
                expected: progress.train_sha256,
                found: data.sha256,
            });
        }
        recipe.data.dataset = data.source.clone(); // which may have moved
        require_agreement(&*placement.ranks, &facts(&progress)?)?;
        placement.ranks.barrier()?; // no rank writes while others read
        let state = State {
            parameters,
            optimizer: OptimizerState {
                steps: progress.steps - progress.stage_start,
                tensors: tensors.optimizer,
            },
            best: tensors.best,
            ema: tensors.ema,
            progress,
        };
        Self::assemble(recipe, data, run, placement, state)
    }

    /// Sets the number of epochs to `epochs`, without a time budget, also for a run that has ended.
    /// `recipe.toml` is updated. A run that was stopped early continues, with its patience reset.
    /// Schedules that depend on the length of a run use the new one.
    ///
    /// # Errors
    /// When that many are done already, or a file cannot be written.
    pub fn extend(&mut self, epochs: usize) -> Result<()> {
        let done = self.progress.history.len();
        if epochs <= done {
            return Err(TrainError::TooFewEpochs {
                done,
                found: epochs,
            });
        }
        if self.placement.ranks.is_first() {
            let path = self.run.recipe();
            let mut kept = Recipe::read(&path)?;
            kept.training.epochs = epochs;
            kept.training.budget = None;
            kept.validate("with --epochs")?;
            kept.write(&path)?;
        }
        self.recipe.training.epochs = epochs;
        self.recipe.training.budget = None;
        if self.progress.stopped {
            self.require_same_parts()?;
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
        placement: Placement,
        state: State,
    ) -> Result<Self> {
        let State {
            parameters,
            optimizer: moments,
            best,
            ema,
            progress,
        } = state;
        recipe.training.precision.set_up(&placement.device)?;
        let training = &recipe.training;
        let model = parameters.model(&recipe.model)?;
        freezing::require_some_trained(&parameters, &recipe)?;
        let (trained, working) = freezing::stage(&parameters, &recipe, progress.history.len())?;
        let mut optimizer = training.optimizer.build(progress.learning_rate);
        let ema = training.ema_decay.map(|decay| Ema::new(decay, ema));
        let mut parts = CustomParts::default();
        if progress.parts.contains_key("optimizer") {
            parts.optimizer_state = Some(moments); // for `Trainer::with_optimizer`
        } else {
            optimizer.restore(moments);
        }
        let clock = Clock {
            since: Instant::now(),
            before: progress.time.seconds,
            test: TestReserve::default(),
        };
        let class_weights = training.class_weights.of(&data.train);
        let validation_weights = if training.balanced_sampler {
            ClassWeighting::Balanced.of(&data.train)
        } else {
            class_weights.clone()
        };
        let steps_per_epoch = data.train.len().div_ceil(training.batch_size);
        let watchdog = Watchdog::new(&recipe, steps_per_epoch, progress.watchdog.clone());
        let summary = Summary::new(&recipe.model)?;
        let read_after = Self::steps_between_readings(&recipe, &placement);
        Ok(Self {
            recipe,
            data,
            all_reduce: GradientAllReduce::new(Arc::clone(&placement.ranks)),
            upload: Mutex::new(Upload::new(&placement.device)),
            placement,
            run,
            parameters,
            trained,
            model,
            working,
            class_weights,
            validation_weights,
            optimizer,
            learning_rate: progress.learning_rate,
            parts,
            ema,
            best,
            progress,
            unread: Vec::new(),
            read_after,
            saved: Instant::now(),
            clock,
            watchdog,
            histograms: Histograms::default(),
            summary,
        })
    }
}

/// Returns the facts that must agree on all ranks.
fn facts(progress: &Progress) -> Result<Facts> {
    let recipe = progress.recipe.parse::<toml::Table>();
    let recipe = recipe.map_err(|error| TrainError::Recipe {
        name: "of this run".to_string(),
        finding: error.to_string(),
    })?;
    let fields = field_names::values(&recipe).into_iter();
    let fields = fields.map(|(name, value)| (name, value.to_string()));
    let texts = [
        ("version", env!("CARGO_PKG_VERSION").to_string()),
        ("train_sha256", progress.train_sha256.clone()),
        ("steps", progress.steps.to_string()),
    ];
    let texts = texts.map(|(name, text)| (name.to_string(), text));
    Ok(fields.chain(texts).collect())
}
