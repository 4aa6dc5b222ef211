//! How a run begins, anew or from what was saved, and becomes longer.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use candle_core::Tensor;
use perceiver_model::{Parameters, Summary, Transfer};
use perceiver_ops::Upload;

use crate::agreement::require_agreement;
use crate::averaging::Averaging;
use crate::checkpoint::Checkpoint;
use crate::clock::{Clock, TestAhead, TimeSpent};
use crate::early_stopping::EarlyStopping;
use crate::error::{Result, TrainError};
use crate::exchange::Exchange;
use crate::forecast::require_memory;
use crate::optimizer::OptimizerState;
use crate::plateau::Plateau;
use crate::progress::{self, EpochProgress, Format, Progress, Saved};
use crate::ranks::Workplace;
use crate::recipe::Recipe;
use crate::run_directory::RunDirectory;
use crate::settled;
use crate::trainer::Trainer;
use crate::training_data::TrainingData;
use crate::watchdog::{Memory, Watchdog};
use crate::working_copy::WorkingCopy;

/// What changes in the course of a run.
struct State {
    parameters: Parameters,
    optimizer: OptimizerState,
    /// The weights of the best epoch so far; none before the first epoch ends.
    best: HashMap<String, Tensor>,
    averages: HashMap<String, Tensor>,
    progress: Progress,
}

impl Trainer {
    /// Begins a run: makes its directory, and puts the recipe and the checkpoint's configuration there.
    ///
    /// The head gets as many classes as the data has. Of several ranks, all begin it, each with the same recipe and data.
    ///
    /// # Errors
    /// When the directory cannot be made, holds a run, or another process is at work in it; when the recipe does not fit the data or the memory, or names a
    /// checkpoint to begin with.
    pub fn start(
        mut recipe: Recipe,
        data: TrainingData,
        run: RunDirectory,
        place: impl Into<Workplace>,
    ) -> Result<Self> {
        let place = place.into();
        if let Some(initial) = &recipe.training.init_from {
            return Err(TrainError::Recipe {
                name: "of a run that starts with fresh weights".to_string(),
                finding: format!(
                    "training.init_from: expected none, found {}",
                    initial.checkpoint
                ),
            });
        }
        let parameters = Self::fresh(&mut recipe, &data, &place)?;
        let run = Self::new_directory(run, &place)?;
        Self::with_parameters(recipe, data, run, place, parameters)
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
        place: impl Into<Workplace>,
    ) -> Result<(Self, Transfer)> {
        let place = place.into();
        let fresh = Self::fresh(&mut recipe, &data, &place)?;
        let run = Self::new_directory(run, &place)?;
        let transfer = checkpoint.weights_for(&recipe.model, data.train.classes(), &fresh)?;
        let parameters = transfer.parameters.clone();
        let mut trainer = Self::with_parameters(recipe, data, run, place, parameters)?;
        trainer.save()?;
        Ok((trainer, transfer))
    }

    /// The directory of a new run; the first rank has it locked, for all.
    fn new_directory(run: RunDirectory, place: &Workplace) -> Result<RunDirectory> {
        if place.ranks.is_first() {
            run.locked_for_a_new_run()
        } else {
            Ok(run)
        }
    }

    /// The directory of a run that was begun, locked by the first rank.
    fn directory(run: RunDirectory, place: &Workplace) -> Result<RunDirectory> {
        if place.ranks.is_first() {
            run.locked()
        } else {
            Ok(run)
        }
    }

    /// Makes the head as wide as the data has classes, and first values from the seed.
    fn fresh(recipe: &mut Recipe, data: &TrainingData, place: &Workplace) -> Result<Parameters> {
        let model = std::mem::take(&mut recipe.model);
        recipe.model = model.with_num_classes(data.train.classes().len());
        recipe.model.validate()?; // as a whole again, with so many classes
        if place.device.is_cpu() {
            let batch = data.train.len().min(recipe.training.batch_size);
            require_memory(recipe, batch.div_ceil(place.ranks.size()))?;
        }
        let seed = recipe.training.seed;
        Ok(Parameters::from_seed(&recipe.model, seed, &place.device)?)
    }

    fn with_parameters(
        mut recipe: Recipe,
        data: TrainingData,
        run: RunDirectory,
        place: Workplace,
        parameters: Parameters,
    ) -> Result<Self> {
        recipe.data.dataset = data.source.clone();
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
            done: false,
            time: TimeSpent::default(),
            watchdog: Memory::default(),
        };
        require_agreement(&*place.ranks, &facts(&progress)?)?;
        if place.ranks.is_first() {
            recipe.write(&run.recipe())?;
            data.surveys.write(&run.surveys())?;
            Self::checkpoint_config(&recipe, &data).write(&run.config())?;
        }
        let state = State {
            parameters,
            optimizer: OptimizerState::default(),
            best: HashMap::new(),
            averages: HashMap::new(),
            progress,
        };
        Self::assemble(recipe, data, run, place, state)
    }

    /// Goes on with a run from its last saved state, or from its beginning if it has none.
    ///
    /// # Errors
    /// When another process or trainer is at work on the run, when the state is damaged, does not fit the recipe, or is gone, or `data` is not
    /// what the run began with. Nothing on the disk has changed then.
    pub fn resume(
        recipe: Recipe,
        data: TrainingData,
        run: RunDirectory,
        place: impl Into<Workplace>,
    ) -> Result<Self> {
        let place = place.into();
        let run = Self::directory(run, &place)?;
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
            if place.ranks.is_first() {
                run.remove_leftovers()?;
            }
            return Self::start(recipe, data, run, place);
        }
        let trainer = Self::read(recipe, data, run, place, &state)?;
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
        place: impl Into<Workplace>,
    ) -> Result<(Self, Option<PathBuf>)> {
        let place = place.into();
        let run = Self::directory(run, &place)?;
        let previous = run.previous_state();
        let trainer = Self::read(recipe, data, run, place, &previous)?;
        let aside = if trainer.place.ranks.is_first() {
            trainer.run.go_back()?
        } else {
            None
        };
        trainer.write_derived()?;
        Ok((trainer, aside))
    }

    /// A run as it stands in the state at `path`; changes nothing.
    fn read(
        mut recipe: Recipe,
        data: TrainingData,
        run: RunDirectory,
        place: Workplace,
        path: &Path,
    ) -> Result<Self> {
        let Saved {
            progress,
            parameters,
            tensors,
        } = progress::read(&run, path, &recipe, &place.device)?;
        if progress.train_sha256 != data.sha256 {
            return Err(TrainError::OtherData {
                name: data.train.name().to_string(),
                expected: progress.train_sha256,
                found: data.sha256,
            });
        }
        recipe.data.dataset = data.source.clone(); // which may have moved
        require_agreement(&*place.ranks, &facts(&progress)?)?;
        place.ranks.barrier()?; // nobody writes while others read
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
        Self::assemble(recipe, data, run, place, state)
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
        if self.place.ranks.is_first() {
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
        place: Workplace,
        state: State,
    ) -> Result<Self> {
        let State {
            parameters,
            optimizer: moments,
            best,
            averages,
            progress,
        } = state;
        recipe.training.precision.set_up(&place.device)?;
        let training = &recipe.training;
        let model = parameters
            .model(&recipe.model)?
            .with_recomputation(training.recompute);
        let (precision, recompute) = (training.precision, training.recompute);
        let working = WorkingCopy::new(&parameters, &recipe.model, precision, recompute)?;
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
        let watchdog = Watchdog::new(&recipe, steps_per_epoch, progress.watchdog.clone());
        let summary = Summary::new(&recipe.model)?;
        let read_after = Self::steps_between_readings(&recipe, &place);
        Ok(Self {
            recipe,
            data,
            exchange: Exchange::new(Arc::clone(&place.ranks)),
            upload: Mutex::new(Upload::new(&place.device)),
            place,
            run,
            parameters,
            model,
            working,
            optimizer,
            averaging,
            best,
            progress,
            unread: Vec::new(),
            read_after,
            saved: Instant::now(),
            clock,
            watchdog,
            summary,
        })
    }
}

/// What all ranks have to bring with them.
fn facts(progress: &Progress) -> Result<toml::Table> {
    let recipe = progress.recipe.parse::<toml::Table>();
    let recipe = recipe.map_err(|error| TrainError::Recipe {
        name: "of this run".to_string(),
        finding: error.to_string(),
    })?;
    let texts = [
        ("version", env!("CARGO_PKG_VERSION").to_string()),
        ("train_sha256", progress.train_sha256.clone()),
        ("steps", progress.steps.to_string()),
    ];
    let texts = texts.map(|(name, text)| (name.to_string(), text.into()));
    Ok(recipe.into_iter().chain(texts).collect())
}
