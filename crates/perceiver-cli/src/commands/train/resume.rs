//! `perceiver train --resume`: resumes a run, or prints the results of a finished one.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, anyhow};
use candle_core::Device;
use perceiver_model::Architecture;
use perceiver_report::counted;
use perceiver_train::{
    Checkpoint, Communicator, EpochMetrics, EventFile, MetricsCsv, MetricsFile, Recipe,
    RunDirectory, TestResults, TrainError, TrainingState, shell_quoted,
};

use crate::args::named_directory;
use crate::commands::train::Arguments;
use crate::commands::train::plan::{Plan, StartFrom};
use crate::commands::{evaluate, report};
use crate::runtime::mpi_job;
use crate::ui::error_hints;

/// Plans the resumed run; `None` if it is already finished, which is logged.
pub(super) fn plan(
    run: &Path,
    arguments: &Arguments,
    ranks: &Arc<dyn Communicator>,
    since: Instant,
) -> Result<Option<Plan>> {
    let flags = &arguments.recipe;
    let run = named_directory::run("--resume", run)?;
    let mut recipe = read_recipe(&run)?;
    let run = if ranks.is_first() {
        locked(&run, &recipe)?
    } else {
        run
    };
    let (from, state) = if arguments.from_previous {
        (StartFrom::Previous, run.previous_state())
    } else {
        (StartFrom::State, run.state())
    };
    // Before the data is loaded, which may take long, and would be other data with another recipe.
    let standing = if state.exists() || arguments.from_previous {
        let standing = TrainingState::read(&run, &state, &recipe);
        Some(standing.map_err(|error| error_hints::shown(error, &run, &recipe))?)
    } else {
        None
    };
    if let (Some(standing), Some(found)) = (standing, flags.epochs)
        && found <= standing.epochs
    {
        let done = standing.epochs;
        let error = TrainError::TooFewEpochs { done, found };
        return Err(error_hints::shown(error, &run, &recipe));
    }
    let changes_nothing = !arguments.from_previous
        && flags.epochs.is_none()
        && flags.dataset.is_none()
        && flags.data_dir.is_none();
    if changes_nothing && is_finished(&run, &recipe, standing, &**ranks)? {
        return Ok(None);
    }
    if let Some(dataset) = &flags.dataset {
        recipe.data.dataset.clone_from(dataset);
    }
    if let Some(data_dir) = &flags.data_dir {
        recipe.data.data_dir.clone_from(data_dir);
    }
    if let Some(device) = flags.device {
        recipe.training.device = device;
    }
    if flags.checkpoint_every.is_some() {
        recipe.training.checkpoint_every = flags.checkpoint_every;
    }
    tracing::info!("resuming {}", run.root().display());
    let placement = mpi_job::placement(recipe.training.device, ranks)?;
    Ok(Some(Plan {
        recipe,
        run,
        placement,
        from,
        epochs: flags.epochs,
        since,
    }))
}

/// Whether a run is finished with all its files; if so, prints its results again. The first rank
/// decides for all.
fn is_finished(
    run: &RunDirectory,
    recipe: &Recipe,
    standing: Option<TrainingState>,
    ranks: &dyn Communicator,
) -> Result<bool> {
    let standing = standing.filter(|_| ranks.is_first());
    let ended = standing.and_then(|standing| Ended::read(run, recipe, standing));
    let mut finished = [f64::from(u8::from(ended.is_some()))];
    ranks.all_reduce_f64(&mut finished)?;
    if let Some(Ended { results, history }) = ended {
        let shown = |error| error_hints::shown(error, run, recipe);
        run.remove_leftovers().map_err(shown)?;
        // Derived files are written again: the table may be missing, the curves truncated.
        let table = MetricsCsv::new(run.metrics_csv()).write(&history);
        let curves = EventFile::new(run.event_file());
        let written = table.and_then(|()| curves.write(&history, Some(&results)));
        written.map_err(shown)?;
        let root = shell_quoted(run.root());
        tracing::info!(
            "{root} is already finished, after {}; extend it by a larger --epochs N",
            counted(history.len(), "epoch")
        );
        evaluate::print(&results, recipe.model.num_classes())?;
        report::after_training(run, recipe.training.device, None); // if it is missing
    }
    Ok(finished != [0.0])
}

/// The results of a finished run.
struct Ended {
    results: TestResults,
    history: Vec<EpochMetrics>,
}

impl Ended {
    /// Reads the results; `None` if a file is missing, damaged, or contradicts the recipe. Resuming
    /// then writes it again.
    fn read(run: &RunDirectory, recipe: &Recipe, standing: TrainingState) -> Option<Self> {
        let results = TestResults::read(run.results()).ok()?;
        let history = MetricsFile::read(run.metrics()).ok()?;
        let checkpoint = Checkpoint::open(run.root(), &Device::Cpu).ok()?;
        let is_whole = standing.is_done
            && history.len() == standing.epochs
            && checkpoint.config.data.dataset.as_ref() == Some(&recipe.data.dataset);
        is_whole.then_some(Self { results, history })
    }
}

/// Locks a run against other processes that would resume it.
fn locked(run: &RunDirectory, recipe: &Recipe) -> Result<RunDirectory> {
    if let Some(writer) = run.writer_elsewhere() {
        tracing::warn!(
            "{} was being written by {writer}; waiting 20 s to see whether it still is",
            run.root().display()
        );
    }
    let locked = run.clone().locked();
    locked.map_err(|error| error_hints::shown(error, run, recipe))
}

/// Reads the recipe of an existing run.
pub(crate) fn read_recipe(run: &RunDirectory) -> Result<Recipe> {
    Recipe::read(run.recipe()).map_err(|error| {
        anyhow!("{error}; fix it by hand: resuming names the first field that differs from the saved state")
    })
}
