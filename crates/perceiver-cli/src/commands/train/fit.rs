//! A run from its data to its test results: the trainer, its callbacks, the estimate.

use std::sync::atomic::AtomicBool;

use anyhow::Result;
use perceiver_data::{Samples, ShardedDataset, Split};
use perceiver_model::{Architecture, Summary};
use perceiver_report::{counted, grouped, with_unit};
use perceiver_train::{
    Callbacks, CheckpointConfig, Communicator, DeviceChoice, Environment, EventFile, HistogramFile,
    MetricsCsv, MetricsFile, Outcome, Placement, ProgressFile, Recipe, RunDirectory, StepsCsv,
    Surveys, TestReserve, Trainer, TrainingData,
};

use crate::args::{class_check, init_from};
use crate::commands::train::new_run::not_started;
use crate::commands::train::plan::{Plan, StartFrom};
use crate::commands::train::test::{TestOutcome, evaluate_run};
use crate::commands::train::views::Views;
use crate::runtime::kernels;
use crate::ui::data_summary::data_summary;
use crate::ui::estimate::PrintedEstimate;
use crate::ui::progress::TrainingProgress;
use crate::ui::{data_progress, error_hints};

/// Loads the training data of a recipe, on every rank.
pub(crate) fn read(
    recipe: &Recipe,
    ranks: &dyn Communicator,
    surveys: Surveys,
) -> Result<TrainingData> {
    tracing::info!("reading {}", recipe.data.dataset);
    let watcher = data_progress::watcher();
    let data = TrainingData::load_shared(recipe, ranks, &watcher, surveys);
    Ok(data?)
}

/// Trains to the end and evaluates once on the test split. Returns `None` if the run was
/// interrupted and saved, and on all ranks but the first. The estimate includes the runs of the
/// recipes in `after`, which follow.
pub(crate) fn fit_and_test(
    plan: Plan,
    data: TrainingData,
    stop: &AtomicBool,
    after: &[&Recipe],
    views: &mut Views,
) -> Result<Option<TestOutcome>> {
    let deadline = plan.recipe.training.budget;
    let deadline = deadline.and_then(|budget| plan.since.checked_add(budget.duration()));
    let mut trainer = prepare(plan, data)?;
    if let Some(every) = views.histograms() {
        trainer.record_histograms(every);
    }
    let is_first = trainer.placement().ranks.is_first();
    if is_first && !trainer.is_done() {
        let here = Environment::here(trainer.device());
        let here = here.started_now(&trainer.run().environment());
        if let Err(error) = here.write(&trainer.run().environment()) {
            tracing::warn!("the environment of the run is not recorded: {error}");
        }
    }
    let forecast = PrintedEstimate::before(&trainer, after)?;
    let mut callbacks: Callbacks = Vec::new();
    if is_first {
        callbacks.push(Box::new(MetricsFile::new(trainer.run().metrics())));
        callbacks.push(Box::new(MetricsCsv::new(trainer.run().metrics_csv())));
        callbacks.push(Box::new(StepsCsv::new(trainer.run().steps())));
        callbacks.push(Box::new(EventFile::new(trainer.run().event_file())));
        if views.histograms().is_some() {
            let file = HistogramFile::new(trainer.run().histogram_file());
            callbacks.push(Box::new(file));
        }
        let progress = ProgressFile::new(trainer.run().progress());
        callbacks.push(Box::new(progress.with_deadline(deadline)));
        let classes = trainer.recipe().model.num_classes();
        if trainer.is_done() {
            tracing::info!("all {} are done", counted(trainer.history().len(), "epoch"));
        } else {
            callbacks.push(Box::new(TrainingProgress::new(classes)));
        }
        views.open(trainer.run())?;
    }
    let outcome = trainer.fit_until(&mut callbacks, stop);
    match outcome.map_err(|error| error_hints::shown(error, trainer.run(), trainer.recipe()))? {
        Outcome::Finished => {
            if let Some(forecast) = forecast {
                forecast.after(&trainer);
            }
            evaluate_run(&trainer, &mut callbacks)
        }
        Outcome::Interrupted => Ok(None),
    }
}

fn prepare(plan: Plan, data: TrainingData) -> Result<Trainer> {
    let Plan {
        recipe,
        run,
        placement,
        from,
        epochs,
        since,
    } = plan;
    let test = test_reserve(&recipe, &data)?;
    tracing::info!(
        "{}; {} classes; normalization mean {:.1?}",
        data_summary(&recipe, &data),
        data.train.classes().len(),
        data.preprocessing.normalization.mean
    );
    if recipe.data.limit_train.is_none() {
        class_check::log_findings(&data);
    }
    if let Samples::Sharded(train) = &data.train {
        log_memory(train, recipe.data.shuffle_buffer);
    }
    let trainer = begin(from, epochs, (recipe, data, run, placement))?.timed(since, test);
    let recipe = trainer.recipe();
    kernels::log(trainer.device(), recipe.training.precision, &recipe.model);
    let summary = Summary::new(&recipe.model)?;
    let steps = trainer.steps_per_epoch();
    let steps = counted(steps, "step");
    let length = match recipe.training.budget {
        None => format!(
            "up to {} of {steps}",
            counted(recipe.training.epochs, "epoch")
        ),
        Some(budget) => format!("budget {budget}, epochs of {steps}"),
    };
    tracing::info!(
        "{} parameters, {} multiply-adds per image; {length} on {}; run {}",
        grouped(summary.parameters()),
        with_unit(summary.multiply_adds()),
        DeviceChoice::from(trainer.device()),
        trainer.run().root().display()
    );
    Ok(trainer)
}

/// Logs the memory that sharded images take on all ranks together.
fn log_memory(train: &ShardedDataset, shuffle_buffer: usize) {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let (mean, largest) = train.image_bytes();
    let buffer = shuffle_buffer as u64;
    tracing::info!(
        "streaming images from {} shards: {buffer} in the shuffle buffer, {:.1} MB on average, {:.1} MB at most; index and labels \
         take {:.1} MB",
        train.shards(),
        megabytes(buffer * mean),
        megabytes(buffer * largest),
        megabytes(train.index_bytes() as u64)
    );
}

/// Estimates the cost of the test from the loading time of the training split. If a split cannot be
/// counted without loading it, the test split is assumed to be a quarter of the training split.
fn test_reserve(recipe: &Recipe, data: &TrainingData) -> Result<TestReserve> {
    let mut options = recipe.load_options();
    options.listing.clone_from(&data.listing);
    let count = |split| recipe.data.dataset.count(split, &options);
    let (images, share) = match (count(Split::Test)?, count(Split::Train)?) {
        (Some(test), Some(train)) => (test, test as f64 / train as f64),
        _ => (data.len() / 4, 0.25),
    };
    let images = images.min(recipe.data.limit_test.unwrap_or(usize::MAX));
    let passes = if recipe.data.test_time_flip { 2 } else { 1 };
    Ok(TestReserve {
        images: passes * images,
        loading: data.loading.mul_f64(share),
    })
}

fn begin(
    from: StartFrom,
    epochs: Option<usize>,
    (recipe, mut data, run, placement): (Recipe, TrainingData, RunDirectory, Placement),
) -> Result<Trainer> {
    let (requested, directory) = (recipe.clone(), run.clone());
    let shown = |error| error_hints::shown(error, &directory, &requested);
    if !matches!(from, StartFrom::Anew) {
        let before = CheckpointConfig::read(run.config()).ok();
        data.init_overlap = before.and_then(|config| config.data.init_overlap);
    }
    let mut trainer = match from {
        StartFrom::Anew => {
            let started = match init_from::checkpoint(&recipe)? {
                None => Trainer::start(recipe, data, run, placement),
                Some(checkpoint) => {
                    if placement.ranks.is_first() {
                        init_from::compare_images(&checkpoint, &recipe, &mut data);
                    }
                    let started = Trainer::start_from(&checkpoint, recipe, data, run, placement);
                    started
                        .inspect(init_from::log_transfer)
                        .map(|(trainer, _)| trainer)
                }
            };
            return started.map_err(not_started);
        }
        StartFrom::State => Trainer::resume(recipe, data, run, placement).map_err(shown)?,
        StartFrom::Previous => {
            let resumed = Trainer::resume_from_previous(recipe, data, run, placement);
            let (trainer, aside) = resumed.map_err(shown)?;
            if let Some(aside) = aside {
                tracing::warn!(
                    "resuming from the previous state; the last one is kept as {}",
                    aside.display()
                );
            }
            trainer
        }
    };
    if let Some(epochs) = epochs {
        trainer.extend(epochs).map_err(shown)?;
    }
    Ok(trainer)
}
