//! `perceiver train --sweep`: every variant of a recipe with every seed, one after another, each an
//! ordinary run in `OUTPUT/NAME-seedN`, and the table of results.
//!
//! Seeds are the outer loop, so that an interrupted sweep has compared all variants with the same
//! seeds.

pub(crate) mod config;
pub(crate) mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use perceiver_model::Architecture;
use perceiver_train::{
    Difference, DirectoryLock, Recipe, RunDirectory, SingleProcess, Surveys, TrainError,
    TrainingData, shell_quoted,
};

use crate::args::errors::usage_error;
use crate::args::init_from;
use crate::args::recipe::RecipeFlags;
use crate::commands::train::fit::{fit_and_test, read};
use crate::commands::train::new_run::choose;
use crate::commands::train::plan::{Plan, StartFrom};
use crate::commands::train::resume::read_recipe;
use crate::commands::train::sweep::config::SweepFile;
use crate::commands::train::sweep::table::{RunFigures, SweepTable};
use crate::commands::train::views::Views;
use crate::runtime::signals::INTERRUPTED;
use crate::ui::terminal;

/// A run of the sweep.
struct Member {
    variant: String,
    seed: u64,
    recipe: Recipe,
    root: PathBuf,
    stage: Stage,
}

/// The progress of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    New,
    Begun,
    Finished,
}

/// Runs the sweep of `file` over the recipe of the flags, or resumes it if `output` already has
/// runs of it.
pub(crate) fn run(
    file: &Path,
    flags: &RecipeFlags,
    output: Option<&Path>,
    stop: &AtomicBool,
) -> Result<ExitCode> {
    let sweep = SweepFile::read(file)?;
    if sweep.seeds.is_some() && flags.seed.is_some() {
        let file = file.display();
        return Err(usage_error(anyhow!(
            "--seed: expected seeds in one place, found `seeds` in {file} too; remove the flag, or `seeds` from the file"
        )));
    }
    // Held to the end, because another sweep in this directory would take over the runs of this
    // one.
    let (root, _lock) = match output {
        Some(root) => (root.to_path_buf(), DirectoryLock::take(root)?),
        None => DirectoryLock::take_unused(Path::new("runs"), "sweep")?,
    };
    let members = members(&sweep, flags, &root)?;
    let Some(diverged) = run_all(&members, &sweep, &root, stop)? else {
        tracing::warn!(
            "saved; resume with the same command and --output {}",
            shell_quoted(&root)
        );
        return Ok(ExitCode::from(INTERRUPTED));
    };
    let table = table(&members, &sweep)?;
    table.write(&root)?;
    terminal::print(table.text())?;
    tracing::info!(
        "the runs, sweep.md, sweep.json and sweep.html are in {}",
        root.display()
    );
    if diverged.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    tracing::warn!(
        "without test results, as the loss or a gradient became NaN or infinite: {}",
        diverged.join(", ")
    );
    Ok(ExitCode::FAILURE)
}

/// Plans all runs, checks each recipe, and compares it with what `root` already contains.
fn members(sweep: &SweepFile, flags: &RecipeFlags, root: &Path) -> Result<Vec<Member>> {
    RunDirectory::unused(root)
        .context("--output: expected a directory for the runs of --sweep, choose another")?;
    let base = flags.layers()?;
    let named = base.named()?;
    let device = named.device.open()?;
    let (dataset, preset) = choose(flags.preset, named, &device);
    let seeds = match &sweep.seeds {
        Some(seeds) => seeds.iter().map(|seed| seed.0).collect(),
        None => vec![base.over(preset)?.training.seed],
    };
    let mut members: Vec<Member> = Vec::new();
    for seed in seeds {
        for variant in &sweep.variants {
            let layers = base.with(variant.layers(seed));
            let mut recipe = init_from::recipe(&layers, preset)?;
            recipe.data.dataset = layers.named()?.dataset.unwrap_or_else(|| dataset.clone());
            recipe.training.device.open()?;
            let mut before = members.iter();
            if !before.any(|before| TrainingData::is_shared(&before.recipe, &recipe)) {
                recipe.data.dataset.check(&recipe.load_options())?;
            }
            let root = root.join(format!("{}-seed{seed}", variant.name));
            let stage = stage(&root, &mut recipe)?;
            members.push(Member {
                variant: variant.name.clone(),
                seed,
                recipe,
                root,
                stage,
            });
        }
    }
    Ok(members)
}

/// Returns the progress of the run at `root`. Its recipe must be this one, whose head takes the
/// width of the run's.
fn stage(root: &Path, recipe: &mut Recipe) -> Result<Stage> {
    let Ok(run) = RunDirectory::open(root) else {
        RunDirectory::unused(root)?; // not a checkpoint either
        return Ok(Stage::New);
    };
    let mut existing = read_recipe(&run)?;
    // A run started by an earlier version keeps its splits.
    if existing.data.split_seed.is_none() {
        recipe.data.split_seed = None;
    }
    if existing.data.use_validation_split.is_none() {
        recipe.data.use_validation_split = None;
    }
    if existing.data.validation_split.is_none() {
        recipe.data.validation_split = None;
    }
    // The fields that --resume may change too: the data directory and the device.
    existing.data.data_dir.clone_from(&recipe.data.data_dir);
    existing.training.device = recipe.training.device;
    let model = std::mem::take(&mut recipe.model);
    recipe.model = model.with_num_classes(existing.model.num_classes());
    if existing != *recipe {
        let first = Difference::between(recipe, &existing)?.into_iter().next();
        let difference = first.map(|difference| difference.to_string());
        bail!(
            "{} holds a run of another recipe: {}; choose another --output or variant name",
            root.display(),
            difference.unwrap_or_default()
        );
    }
    Ok(if run.results().exists() {
        Stage::Finished
    } else {
        Stage::Begun
    })
}

/// Runs what is not finished. Returns the names of the runs whose loss or gradients became NaN or
/// infinite, or `None` when interrupted.
fn run_all(
    members: &[Member],
    sweep: &SweepFile,
    root: &Path,
    stop: &AtomicBool,
) -> Result<Option<Vec<String>>> {
    let mut last: Option<(&Recipe, TrainingData)> = None;
    let mut diverged = Vec::new();
    for (index, member) in members.iter().enumerate() {
        let name = format!("{} with seed {}", member.variant, member.seed);
        let label = format!("run {} of {}, {name}", index + 1, members.len());
        if member.stage == Stage::Finished {
            tracing::info!("{label}: already finished");
            continue;
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        tracing::info!("{label}");
        let since = Instant::now();
        // Frees the previous data before loading the next, so that memory holds only one data set.
        let shared = last.take();
        let shared = shared.filter(|(recipe, _)| TrainingData::is_shared(recipe, &member.recipe));
        let data = match shared {
            Some((_, data)) => data,
            None => read(&member.recipe, &SingleProcess, Surveys::default())?,
        };
        last = Some((&member.recipe, data.clone()));
        let after = members[index + 1..].iter();
        let after = after.filter(|member| member.stage != Stage::Finished);
        let after: Vec<&Recipe> = after.map(|member| &member.recipe).collect();
        match fit_and_test(
            plan(member, since)?,
            data,
            stop,
            &after,
            &mut Views::default(),
        ) {
            Ok(Some(outcome)) => {
                let accuracy = 100.0 * outcome.results.acc;
                tracing::info!("{name}: test accuracy {accuracy:.2}%");
                table(members, sweep)?.write(root)?;
            }
            Ok(None) => return Ok(None),
            // A diverging recipe is a finding; the others are still compared.
            Err(error) if is_divergence(&error) => {
                tracing::warn!("{name}: {error:#}");
                diverged.push(name);
            }
            Err(error) => return Err(error.context(label)),
        }
    }
    Ok(Some(diverged))
}

fn is_divergence(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<TrainError>();
    matches!(error, Some(TrainError::NotFinite { .. }))
}

fn plan(member: &Member, since: Instant) -> Result<Plan> {
    let (run, from) = if member.stage == Stage::Begun {
        (RunDirectory::open(&member.root)?, StartFrom::State)
    } else {
        (RunDirectory::unused(&member.root)?, StartFrom::Anew)
    };
    Ok(Plan {
        recipe: member.recipe.clone(),
        run,
        placement: member.recipe.training.device.open()?.into(),
        from,
        epochs: None,
        since,
    })
}

/// Collects the results of the finished runs.
fn table(members: &[Member], sweep: &SweepFile) -> Result<SweepTable> {
    let variants = sweep.variants.iter().map(|variant| {
        let own = members
            .iter()
            .filter(|member| member.variant == variant.name);
        let figures = own
            .clone()
            .map(|member| RunFigures::read(&member.root, member.seed))
            .collect::<Result<Vec<_>>>()?;
        let finished = figures.into_iter().flatten().collect();
        Ok((variant.name.as_str(), own.count(), finished))
    });
    Ok(SweepTable::new(variants.collect::<Result<Vec<_>>>()?))
}
