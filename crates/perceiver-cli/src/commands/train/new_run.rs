//! A new run: its data set, preset, recipe and directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, anyhow};
use candle_core::Device;
use perceiver_data::Source;
use perceiver_train::{Communicator, Preset, Recipe, RunDirectory, TrainError, require_memory};

use crate::args::init_from;
use crate::args::recipe::Named;
use crate::commands::train::Arguments;
use crate::commands::train::plan::{Plan, StartFrom};
use crate::runtime::mpi_job;
use crate::ui::error_hints;

/// Plans a new run from the flags and the available data.
pub(super) fn plan(
    arguments: &Arguments,
    ranks: &Arc<dyn Communicator>,
    since: Instant,
) -> Result<Plan> {
    let flags = &arguments.recipe;
    let layers = flags.layers()?;
    let named = layers.named()?;
    let placement = mpi_job::placement(named.device, ranks)?;
    let is_whole = named.recipe.is_some();
    let (dataset, preset) = choose(flags.preset, named, &placement.device);
    let mut recipe = init_from::recipe(&layers, preset)?;
    recipe.data.dataset = dataset;
    recipe.data.dataset.check(&recipe.load_options())?;
    if placement.device.is_cpu() {
        require_memory(&recipe, 0)?; // the model's part, before the long loading of data
    }
    let under = if is_whole { "recipe" } else { preset.name() };
    let run = new_directory(arguments.output.as_deref(), &recipe, under, &**ranks)?;
    Ok(Plan {
        recipe,
        run,
        placement,
        from: StartFrom::Anew,
        epochs: None,
        since,
    })
}

/// Creates the directory of a new run. The first rank does it for all, and no other process can
/// take it.
fn new_directory(
    output: Option<&Path>,
    recipe: &Recipe,
    under: &str,
    ranks: &dyn Communicator,
) -> Result<RunDirectory> {
    let mut chosen = Vec::new();
    let run = if ranks.is_first() {
        let run = match output {
            Some(root) => RunDirectory::create(root),
            None => RunDirectory::create_under(Path::new("runs"), &name(recipe, under)),
        };
        let run = run.map_err(not_started)?;
        chosen = run.root().to_string_lossy().into_owned().into_bytes();
        ranks.broadcast(0, &mut chosen)?;
        run
    } else {
        ranks.broadcast(0, &mut chosen)?;
        RunDirectory::unused(String::from_utf8(chosen)?)?
    };
    ranks.barrier()?; // no rank starts before all have seen that it is unused
    Ok(run)
}

/// Returns the default name of a run with a recipe over the preset `under`.
fn name(recipe: &Recipe, under: &str) -> String {
    format!("{}-{under}", recipe.data.dataset.short_name())
}

/// Chooses the data set and the preset, and logs the reasons: those given, else the best available.
/// A complete recipe starts from the preset with the defaults.
pub(crate) fn choose(preset: Option<Preset>, named: Named, device: &Device) -> (Source, Preset) {
    let choice = Choice::of(preset, named, device);
    choice.log();
    (choice.dataset, choice.preset)
}

/// The data set and the preset, with the reasons.
pub(crate) struct Choice {
    pub(crate) dataset: Source,
    pub(crate) preset: Preset,
    why: &'static str,
    reason: &'static str,
    recipe: Option<PathBuf>,
    /// The directory that CIFAR-100 was not found in.
    without: Option<PathBuf>,
}

impl Choice {
    /// Makes the choice of [`choose`] without logging it.
    pub(crate) fn of(preset: Option<Preset>, named: Named, device: &Device) -> Self {
        let mut without = None;
        let (dataset, why) = match named.dataset {
            Some(dataset) => (dataset, "as configured"),
            None if preset == Some(Preset::Quickstart) => {
                (Source::Shapes, "default for quickstart")
            }
            None if Source::Cifar100.is_present(&named.data_dir) => {
                (Source::Cifar100, "found in the data directory")
            }
            None => {
                without = Some(named.data_dir);
                (Source::Shapes, "embedded")
            }
        };
        let (preset, reason) = match (preset, &dataset) {
            _ if named.recipe.is_some() => (Preset::Keras, "default"),
            (Some(preset), _) => (preset, "from --preset"),
            (None, Source::Shapes) => (Preset::Quickstart, "default for shapes"),
            (None, _) if device.is_cpu() => (Preset::Cifar100Cpu, "CPU default"),
            (None, _) => (Preset::Cifar100, "GPU default"),
        };
        Self {
            dataset,
            preset,
            why,
            reason,
            recipe: named.recipe,
            without,
        }
    }

    fn log(&self) {
        let Self {
            dataset,
            preset,
            why,
            reason,
            ..
        } = self;
        if let Some(data_dir) = &self.without {
            tracing::warn!(
                "no CIFAR-100 in {}: training on the embedded shapes instead; download it with: cargo xtask fetch-data",
                data_dir.display()
            );
        }
        if let Some(recipe) = &self.recipe {
            tracing::info!("data set {dataset} ({why}), recipe {}", recipe.display());
        } else {
            tracing::info!(
                "data set {dataset} ({why}), preset {preset} ({reason}): {}",
                preset.description()
            );
        }
    }
}

/// Describes why a run could not be created on disk, with a remedy.
pub(super) fn not_started(error: TrainError) -> anyhow::Error {
    match &error {
        TrainError::RunExists { .. } => anyhow::Error::new(error)
            .context("choose another --output, or resume the run by --resume"),
        TrainError::InUse { .. } => anyhow!("{error}; choose another --output"),
        TrainError::Io { source, .. } => {
            let remedy = error_hints::remedy(source.kind());
            anyhow!("{error}; {remedy}, or choose another --output")
        }
        _ => error.into(),
    }
}
