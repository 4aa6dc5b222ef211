//! `perceiver train`: choose data and recipe, say so, train, and judge once by the test split.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use candle_core::Device;
use perceiver_data::{Source, Split};
use perceiver_model::Summary;
use perceiver_train::{
    DeviceChoice, MetricsFile, Observers, Outcome, Preset, Recipe, RunDirectory, TestAhead,
    TestResults, Trainer, TrainingData,
};

use crate::evaluate;
use crate::interrupt::{self, INTERRUPTED};
use crate::progress::TrainingProgress;
use crate::recipe_flags::{Named, RecipeFlags};

/// Train a model.
///
/// Without flags: CIFAR-100 if it is in `data/`, else the embedded shapes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  perceiver train
  perceiver train --dataset cifar100 --preset cifar100-cpu --epochs 5
  perceiver train --dataset folder:photos --output runs/photos
  perceiver train --resume runs/photos")]
pub(crate) struct Arguments {
    #[command(flatten)]
    recipe: RecipeFlags,

    /// Directory of the run [default: runs/DATASET-PRESET-NUMBER].
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// Go on with an interrupted run; its recipe is in it. Only --data-dir and --device may be added.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["output", "preset", "config", "dataset", "labels", "epochs", "budget",
        "batch_size", "learning_rate", "recompute", "seed", "limit_train", "limit_test"])]
    resume: Option<PathBuf>,
}

/// What to run, and where.
struct Plan {
    recipe: Recipe,
    run: RunDirectory,
    device: Device,
    resumed: bool,
    /// What a budget is counted from.
    since: Instant,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let since = Instant::now();
    let stop = interrupt::flag()?;
    let plan = match &arguments.resume {
        Some(run) => resumed(run, &arguments.recipe, since)?,
        None => chosen(arguments, since)?,
    };
    let mut trainer = prepare(plan)?;
    let mut observers: Observers = vec![
        Box::new(MetricsFile::new(trainer.run().metrics())),
        Box::new(TrainingProgress::default()),
    ];
    let epochs_before = trainer.history().len();
    let outcome = trainer.fit(&mut observers, &stop);
    let trained = trainer.history().len() > epochs_before;
    let run = trainer.run().root().display().to_string();
    match outcome.with_context(|| format!("the run's last saved state is kept in {run}"))? {
        Outcome::Finished => finish(&trainer, trained, since),
        Outcome::Interrupted => {
            tracing::warn!("saved; go on with: perceiver train --resume {run}");
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

/// The run to go on with.
fn resumed(run: &Path, flags: &RecipeFlags, since: Instant) -> Result<Plan> {
    let run = RunDirectory::open(run)?;
    let path = run.recipe();
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let table = toml::from_str(&text)
        .with_context(|| format!("{} is damaged: expected TOML", path.display()))?;
    let mut recipe = Recipe::from_layers(&[("of the run", table)])?;
    if let Some(data_dir) = &flags.data_dir {
        recipe.data.data_dir.clone_from(data_dir);
    }
    if let Some(device) = flags.device {
        recipe.training.device = device;
    }
    tracing::info!("resuming {}", run.root().display());
    let device = recipe.training.device.open()?;
    Ok(Plan {
        recipe,
        run,
        device,
        resumed: true,
        since,
    })
}

/// A new run, by flags and by what is there.
fn chosen(arguments: &Arguments, since: Instant) -> Result<Plan> {
    let flags = &arguments.recipe;
    let layers = flags.layers()?;
    let named = layers.named()?;
    let device = named.device.open()?;
    let (dataset, preset) = choose(flags.preset, named, &device);
    let mut recipe = layers.over(preset)?;
    recipe.data.dataset = dataset;
    recipe.data.dataset.check(&recipe.load_options())?;
    let root = arguments.output.clone().unwrap_or_else(|| {
        let dataset = recipe.data.dataset.to_string();
        let name = dataset.rsplit([':', '/']).find(|part| !part.is_empty());
        let name = format!("{}-{preset}", name.unwrap_or("run"));
        RunDirectory::unused_under(Path::new("runs"), &name)
    });
    let run = RunDirectory::unused(root)
        .context("choose another --output, or go on with the run by --resume")?;
    Ok(Plan {
        recipe,
        run,
        device,
        resumed: false,
        since,
    })
}

/// The data set and the preset: those named, else the best of what is there. Says what and why.
fn choose(preset: Option<Preset>, named: Named, device: &Device) -> (Source, Preset) {
    let data_dir = named.data_dir;
    let (dataset, why) = match named.dataset {
        Some(dataset) => (dataset, "as named"),
        None if preset == Some(Preset::Quickstart) => (Source::Shapes, "quickstart's"),
        None if Source::Cifar100.is_present(&data_dir) => (Source::Cifar100, "found"),
        None => {
            tracing::warn!(
                "no CIFAR-100 in {}: learning the embedded shapes instead; `cargo xtask fetch-data` brings CIFAR-100",
                data_dir.display()
            );
            (Source::Shapes, "embedded")
        }
    };
    let (preset, reason) = match (preset, &dataset) {
        (Some(preset), _) => (preset, "as named"),
        (None, Source::Shapes) => (Preset::Quickstart, "for shapes"),
        (None, _) if device.is_cpu() => (Preset::Cifar100Cpu, "for a CPU"),
        (None, _) => (Preset::Keras, "for a GPU"),
    };
    tracing::info!(
        "data set {dataset} ({why}), preset {preset} ({reason}): {}",
        preset.description()
    );
    (dataset, preset)
}

fn prepare(plan: Plan) -> Result<Trainer> {
    let Plan {
        recipe,
        run,
        device,
        resumed,
        since,
    } = plan;
    tracing::info!("reading {}", recipe.data.dataset);
    let start = Instant::now();
    let data = TrainingData::load(&recipe)?;
    let test = test_ahead(&recipe, data.len(), start.elapsed())?;
    tracing::info!(
        "{} pictures of {} classes to train on, {} to validate; normalization mean {:.1?}",
        data.train.len(),
        data.train.classes().len(),
        data.validation.len(),
        data.preprocessing.normalization.mean
    );
    let trainer = if resumed {
        Trainer::resume(recipe, data, run, device)?
    } else {
        Trainer::start(recipe, data, run, device)?
    }
    .timed(since, test);
    let recipe = trainer.recipe();
    let summary = Summary::new(&recipe.model)?;
    let steps = trainer.steps_per_epoch();
    let length = match recipe.training.budget {
        None => format!("at most {} epochs of {steps} steps", recipe.training.epochs),
        Some(budget) => format!("{budget} for epochs of {steps} steps"),
    };
    tracing::info!(
        "{} parameters, {:.2} G multiply-adds a picture; {length} on {}; run {}",
        grouped(summary.parameters()),
        summary.multiply_adds() as f64 / 1e9,
        DeviceChoice::from(trainer.device()),
        trainer.run().root().display()
    );
    Ok(trainer)
}

/// What the test will be, told from how long the training split, of `train_images` that are used, took to read. Where a split
/// is not counted before it is read, the test is taken for a quarter of the training split.
fn test_ahead(recipe: &Recipe, train_images: usize, train_loading: Duration) -> Result<TestAhead> {
    let options = recipe.load_options();
    let count = |split| recipe.data.dataset.count(split, &options);
    let (images, share) = match (count(Split::Test)?, count(Split::Train)?) {
        (Some(test), Some(train)) => (test, test as f64 / train as f64),
        _ => (train_images / 4, 0.25),
    };
    Ok(TestAhead {
        images: images.min(recipe.data.limit_test.unwrap_or(usize::MAX)),
        loading: train_loading.mul_f64(share),
    })
}

/// Shows the verdict of the test split, which is reached once and kept while the weights stay.
fn finish(trainer: &Trainer, trained: bool, since: Instant) -> Result<ExitCode> {
    let path = trainer.run().results();
    let results = if path.exists() && !trained {
        TestResults::read(&path)?
    } else {
        let results = test(trainer)?;
        results.write(&path)?;
        results
    };
    evaluate::print(&results)?;
    if let Some(budget) = trainer.recipe().training.budget {
        let took = since.elapsed().as_secs_f64();
        tracing::info!("took {took:.1} s with a budget of {budget}");
    }
    let run = trainer.run().root();
    tracing::info!("best weights, metrics and results are in {}", run.display());
    tracing::info!(
        "try: perceiver predict --checkpoint {} IMAGE",
        run.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// Reads the test split, for the one time it is read.
fn test(trainer: &Trainer) -> Result<TestResults> {
    let recipe = trainer.recipe();
    let options = recipe.load_options();
    let mut test = recipe.data.dataset.load(Split::Test, &options)?;
    if let Some(limit) = recipe.data.limit_test {
        test.truncate(limit);
    }
    let name = test.name().to_string();
    let sums = evaluate::with_bar(
        trainer.model(),
        Arc::new(test),
        trainer.preprocessing(),
        trainer.device(),
    )?;
    Ok(TestResults::new(name, &sums))
}

/// A count with its thousands apart.
pub(crate) fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1234), "1,234");
        assert_eq!(grouped(9_697_637), "9,697,637");
    }
}
