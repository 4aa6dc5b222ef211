//! `perceiver push`: a checkpoint to the Hugging Face Hub, with a card, in one commit.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use perceiver_hub::{RepoKind, RepoName, Repository, Upload};
use perceiver_model::Summary;
use perceiver_report::{Card, grouped, shared_recipe};
use perceiver_train::{
    Checkpoint, DeviceChoice, MetricsFile, PreprocessorConfig, Recipe, RunDirectory, TestResults,
};
use tracing::info;

use crate::checkpoint::CheckpointFlags;
use crate::hub_access;
use crate::terminal;
use crate::verify;

/// Files of a run that go along as they are, where they are there.
const AS_THEY_ARE: [&str; 4] = [
    "config.json",
    "model.safetensors",
    "metrics.jsonl",
    "predictions.csv",
];

/// Upload a checkpoint to the Hugging Face Hub, with a model card.
///
/// The repository is created if need be, and all files come in one commit: config.json, model.safetensors,
/// `preprocessor_config.json`, README.md (the model card; one of your own in DIR goes in its place), and, where they are there,
/// results.json, metrics.jsonl, predictions.csv and recipe.toml. The checkpoint is measured first, and refused if it does not do
/// as well as it says.
///
/// The access token comes from `HF_TOKEN` or from `hf auth login`, and is never shown.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  perceiver push --checkpoint runs/shapes-quickstart-1 --repo me/perceiver-shapes --dry-run
  perceiver push --checkpoint runs/mine --repo me/perceiver-cifar100 --private --revision draft")]
pub(crate) struct Arguments {
    /// Directory of a run or checkpoint.
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,

    /// The repository on the Hub.
    #[arg(long, value_name = "USER/NAME")]
    repo: String,

    /// Create it private; one that is there and public is refused.
    #[arg(long)]
    private: bool,

    /// Branch to commit to, made from `main` if it is not there.
    #[arg(long, value_name = "BRANCH", default_value = "main")]
    revision: String,

    /// The licence that the card names, by the Hub's identifier.
    #[arg(long, value_name = "ID", default_value = "mit", value_parser = license)]
    license: String,

    /// Show what would be done, and the card; needs no network and no token.
    #[arg(long)]
    dry_run: bool,

    /// Do not measure the checkpoint first.
    #[arg(long)]
    no_verify: bool,

    /// Where fetched data sets lie.
    #[arg(long, value_name = "DIR", default_value = "data")]
    data_dir: PathBuf,

    /// Where to compute: auto, cpu, cuda, cuda:N or metal.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
}

/// What the Hub takes as a licence: lowercase words with hyphens.
fn license(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    if !text.is_empty() && text.chars().all(allowed) {
        return Ok(text.to_owned());
    }
    Err("expected an identifier such as mit, apache-2.0 or cc-by-4.0".to_owned())
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let directory = &arguments.checkpoint;
    let name: RepoName = arguments.repo.parse()?;
    if name.revision.is_some() {
        bail!("--repo {name}: expected USER/NAME; the branch to push to is --revision's");
    }
    let access = hub_access::with_bar(false);
    let repository = Repository::connect(RepoKind::Model, &arguments.repo, &access)
        .with_context(|| format!("--repo {}", arguments.repo))?;
    let flags = CheckpointFlags::of("--checkpoint", &directory.to_string_lossy(), false);
    let checkpoint = flags.open_directory(directory, arguments.device)?;
    let measured = if arguments.no_verify || arguments.dry_run {
        None
    } else {
        Some(verified(arguments, &checkpoint)?)
    };
    let files = files(arguments, &checkpoint, measured)?;
    if arguments.dry_run {
        describe(arguments, &repository, &files)?;
        return Ok(ExitCode::SUCCESS);
    }
    if access.offline {
        bail!("HF_HUB_OFFLINE is set: expected a connection to push over");
    }
    repository.create(arguments.private)?;
    let message = format!("perceiver {}", env!("CARGO_PKG_VERSION"));
    let commit = repository.upload(&arguments.revision, &message, &files)?;
    terminal::print(format_args!("pushed to {}", commit.address))?;
    let name = named(arguments);
    info!("try: perceiver predict --checkpoint {name} IMAGE");
    Ok(ExitCode::SUCCESS)
}

fn named(arguments: &Arguments) -> String {
    let (repo, revision) = (&arguments.repo, &arguments.revision);
    match revision.as_str() {
        "main" => repo.clone(),
        _ => format!("{repo}@{revision}"),
    }
}

/// What the checkpoint comes to now, which must be what it says.
fn verified(arguments: &Arguments, checkpoint: &Checkpoint) -> Result<TestResults> {
    let results = verify::measure(checkpoint, None, &arguments.data_dir)
        .context("measuring the checkpoint before the push, which --no-verify leaves out")?;
    verify::require_as_claimed(&arguments.checkpoint, &results)
        .context("not pushed, as the checkpoint does not do as well as it says")?;
    Ok(results)
}

/// The files of the commit.
fn files(
    arguments: &Arguments,
    checkpoint: &Checkpoint,
    measured: Option<TestResults>,
) -> Result<Vec<Upload>> {
    let directory = &arguments.checkpoint;
    let there = |name: &str| Some(directory.join(name)).filter(|path| path.is_file());
    let mut files: Vec<Upload> = AS_THEY_ARE
        .iter()
        .filter_map(|name| Some(Upload::file(*name, there(name)?)))
        .collect();
    let preprocessing = PreprocessorConfig::new(&checkpoint.config.preprocessing);
    let preprocessing = serde_json::to_string_pretty(&preprocessing)? + "\n";
    files.push(Upload::bytes("preprocessor_config.json", preprocessing));

    let told = there("results.json").map(|path| TestResults::read(&path));
    let results = told.transpose()?.or(measured);
    if let Some(results) = &results {
        let json = serde_json::to_string_pretty(results)? + "\n";
        files.push(Upload::bytes("results.json", json));
    }
    let recipe = recipe(directory)?;
    if let Some(recipe) = &recipe {
        files.push(Upload::bytes("recipe.toml", shared_recipe(recipe)?));
    }
    files.push(if let Some(own) = there("README.md") {
        Upload::file("README.md", own)
    } else {
        let card = card(arguments, checkpoint, results.as_ref(), recipe.as_ref())?;
        Upload::bytes("README.md", card)
    });
    Ok(files)
}

/// The recipe of a run; a checkpoint that is none has none.
fn recipe(directory: &Path) -> Result<Option<Recipe>> {
    match RunDirectory::open(directory) {
        Ok(run) => Ok(Some(Recipe::read(&run.recipe())?)),
        Err(_) => Ok(None),
    }
}

fn card(
    arguments: &Arguments,
    checkpoint: &Checkpoint,
    results: Option<&TestResults>,
    recipe: Option<&Recipe>,
) -> Result<String> {
    let metrics = arguments.checkpoint.join("metrics.jsonl");
    let history = if metrics.is_file() {
        MetricsFile::read(&metrics)?
    } else {
        Vec::new()
    };
    let card = Card {
        repo: &named(arguments),
        license: &arguments.license,
        config: &checkpoint.config,
        parameters: Summary::new(&checkpoint.config.model)?.parameters(),
        results,
        history: &history,
        recipe,
    };
    Ok(card.render()?)
}

/// What a push would do.
fn describe(arguments: &Arguments, repository: &Repository, files: &[Upload]) -> Result<()> {
    let kind = if arguments.private {
        "a private"
    } else {
        "a public"
    };
    if !arguments.no_verify {
        terminal::print("would measure the checkpoint and compare it with what it says of itself")?;
    }
    terminal::print(format_args!(
        "would create {} as {kind} repository, unless it is there",
        repository.address()
    ))?;
    terminal::print(format_args!(
        "would commit to branch {}:",
        arguments.revision
    ))?;
    for file in files {
        let size = grouped(file.size()? as usize);
        terminal::print(format_args!("  {:24} {size:>12} bytes", file.path()))?;
    }
    if let Some(text) = files.iter().find(|file| file.path() == "README.md") {
        terminal::print(format_args!(
            "README.md would be:\n\n{}",
            String::from_utf8_lossy(&text.content()?)
        ))?;
    }
    Ok(())
}
