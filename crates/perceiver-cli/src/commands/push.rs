//! `perceiver push`: uploads a checkpoint with a model card to the Hugging Face Hub, in one commit.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use perceiver_hub::{HubError, RepoKind, RepoName, Repository, Upload};
use perceiver_model::Summary;
use perceiver_report::{Card, Public, grouped};
use perceiver_train::{
    Checkpoint, CheckpointConfig, DeviceChoice, MetricsFile, PreprocessorConfig, Recipe,
    RunDirectory, TestResults, shell_quoted,
};
use tracing::info;

use crate::args::checkpoint::CheckpointFlags;
use crate::args::errors::usage_error;
use crate::args::license::license;
use crate::args::named_directory;
use crate::commands::verify;
use crate::runtime::hub;
use crate::ui::escape;
use crate::ui::terminal;

/// The only file without text.
const WEIGHTS: &str = "model.safetensors";

/// Upload a checkpoint to the Hugging Face Hub, with a model card.
///
/// Create the repository if needed, and commit all files at once: config.json, model.safetensors,
/// `preprocessor_config.json`, README.md (the generated model card, or your own from DIR), and, if
/// they exist, results.json, metrics.jsonl, predictions.csv and recipe.toml. In all of them, paths
/// of this machine are replaced by names. The checkpoint is evaluated first, and rejected if it
/// does not reach its claimed accuracy.
///
/// The access token comes from `HF_TOKEN` or from `hf auth login`, and is never shown.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  perceiver push runs/shapes-quickstart-1 --repo me/perceiver-shapes --dry-run
  perceiver push runs/mine --repo me/perceiver-cifar100 --private \\
      --revision draft")]
pub(crate) struct Arguments {
    /// Directory of a run or checkpoint.
    #[arg(
        value_name = "DIR",
        required_unless_present = "checkpoint",
        conflicts_with = "checkpoint"
    )]
    directory: Option<PathBuf>,

    /// Alternative to the argument, for consistency with other commands.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,

    /// Repository on the Hub.
    #[arg(long, value_name = "USER/NAME")]
    repo: String,

    /// Create a private repository; reject an existing public one.
    #[arg(long)]
    private: bool,

    /// Branch to commit to, created from `main` if it does not exist.
    #[arg(long, value_name = "BRANCH", default_value = "main")]
    revision: String,

    /// License in the model card, by its identifier on the Hub.
    #[arg(long, value_name = "ID", default_value = "mit", value_parser = license)]
    license: String,

    /// Show what would be done, and the model card, without network or token.
    #[arg(long)]
    dry_run: bool,

    /// Skip the evaluation of the checkpoint.
    #[arg(long)]
    no_verify: bool,

    /// Directory of downloaded data sets.
    #[arg(long, value_name = "DIR", default_value = "data")]
    data_dir: PathBuf,

    /// Device to compute on: auto, cpu, cuda, cuda:N or metal.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
}

impl Arguments {
    /// Returns the directory from the argument or the flag; clap ensures that one is given.
    fn directory(&self) -> &Path {
        let named = self.checkpoint.as_deref().or(self.directory.as_deref());
        named.unwrap_or_else(|| Path::new("."))
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let directory = arguments.directory();
    if !directory.is_dir() {
        return Err(named_directory::missing("DIR", directory));
    }
    let name: RepoName = arguments
        .repo
        .parse()
        .map_err(|error: HubError| usage_error(anyhow!("--repo {}: {error}", arguments.repo)))?;
    if name.revision.is_some() {
        return Err(usage_error(anyhow!(
            "--repo {name}: expected USER/NAME; name the branch to push to by --revision"
        )));
    }
    let access = hub::with_bar(false);
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
        bail!("HF_HUB_OFFLINE is set: a push needs the network; unset it");
    }
    repository.create(arguments.private)?;
    let message = format!("perceiver {}", env!("CARGO_PKG_VERSION"));
    let commit = repository.upload(&arguments.revision, &message, &files)?;
    terminal::print(format_args!("pushed to {}", commit.address))?;
    let name = shell_quoted(named(arguments));
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

/// Evaluates the checkpoint and checks that it reaches its claimed accuracy.
fn verified(arguments: &Arguments, checkpoint: &Checkpoint) -> Result<TestResults> {
    let results = verify::measure(checkpoint, None, &arguments.data_dir)
        .context("evaluating the checkpoint before the push (--no-verify skips this)")?;
    verify::require_as_claimed(arguments.directory(), &results)
        .context("not pushed, as the checkpoint does not reach its claimed accuracy")?;
    Ok(results)
}

/// Collects the files of the commit, all redacted by [`Public`].
fn files(
    arguments: &Arguments,
    checkpoint: &Checkpoint,
    measured: Option<TestResults>,
) -> Result<Vec<Upload>> {
    let directory = arguments.directory();
    let there = |name: &str| Some(directory.join(name)).filter(|path| path.is_file());
    let recipe = recipe(directory)?;
    let public = Public::of(directory, &checkpoint.config, recipe.as_ref());
    let config = public.config(&checkpoint.config);
    let recipe = recipe.map(|recipe| public.recipe(&recipe));
    let saved = there("results.json").map(|path| TestResults::read(&path));
    let results = saved.transpose()?.or(measured);
    let results = results.map(|results| public.results(&results));

    let mut files = vec![
        if config == checkpoint.config {
            text_file(directory, "config.json", |text| Ok(public.text(text)))?
        } else {
            json("config.json", &config)?
        },
        Upload::file(WEIGHTS, directory.join(WEIGHTS)),
    ];
    if there("metrics.jsonl").is_some() {
        let public = |text: &str| Ok(public.text(text));
        files.push(text_file(directory, "metrics.jsonl", public)?);
    }
    if there("predictions.csv").is_some() {
        let public = |text: &str| Ok(public.predictions(text)?);
        files.push(text_file(directory, "predictions.csv", public)?);
    }
    let preprocessing = PreprocessorConfig::new(&config);
    files.push(json("preprocessor_config.json", &preprocessing)?);
    if let Some(results) = &results {
        files.push(json("results.json", results)?);
    }
    if let Some(recipe) = &recipe {
        files.push(Upload::bytes("recipe.toml", recipe.to_toml()?));
    }
    files.push(if there("README.md").is_some() {
        text_file(directory, "README.md", |text| Ok(text.to_string()))?
    } else {
        let card = card(arguments, &config, results.as_ref(), recipe.as_ref())?;
        Upload::bytes("README.md", card)
    });
    require_public(&public, directory, &files)?;
    Ok(files)
}

/// Serializes a value as an indented JSON file.
fn json(name: &str, value: &impl serde::Serialize) -> Result<Upload> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    Ok(Upload::bytes(name, text))
}

/// Reads a text file of the checkpoint; it is uploaded unchanged if `public` changes nothing.
fn text_file(
    directory: &Path,
    name: &str,
    public: impl Fn(&str) -> Result<String>,
) -> Result<Upload> {
    let path = directory.join(name);
    let expected = || format!("{}: expected a text file", path.display());
    let text = perceiver_files::read_text(&path).with_context(expected)?;
    let changed = public(&text)?;
    Ok(if changed == text {
        Upload::file(name, path)
    } else {
        Upload::bytes(name, changed)
    })
}

/// Checks that no file mentions paths of this machine, in any field. Text written by people is
/// theirs to change.
fn require_public(public: &Public, directory: &Path, files: &[Upload]) -> Result<()> {
    for file in files.iter().filter(|file| file.path() != WEIGHTS) {
        let content = file.content()?;
        if let Some(path) = public.private_in(&String::from_utf8_lossy(&content)) {
            bail!(
                "{}: expected no directory of this machine in a published file, found {path}; remove it, or the file, \
                 and push again",
                directory.join(file.path()).display()
            );
        }
    }
    Ok(())
}

/// Reads the recipe of a run; `None` for a plain checkpoint.
fn recipe(directory: &Path) -> Result<Option<Recipe>> {
    match RunDirectory::open(directory) {
        Ok(run) => Ok(Some(Recipe::read(run.recipe())?)),
        Err(_) => Ok(None),
    }
}

fn card(
    arguments: &Arguments,
    config: &CheckpointConfig,
    results: Option<&TestResults>,
    recipe: Option<&Recipe>,
) -> Result<String> {
    let metrics = arguments.directory().join("metrics.jsonl");
    let history = if metrics.is_file() {
        MetricsFile::read(&metrics)?
    } else {
        Vec::new()
    };
    let card = Card {
        repo: &named(arguments),
        license: &arguments.license,
        config,
        parameters: Summary::new(&config.model)?.parameters(),
        results,
        history: &history,
        recipe,
    };
    Ok(card.render()?)
}

/// Prints what a push would do.
fn describe(arguments: &Arguments, repository: &Repository, files: &[Upload]) -> Result<()> {
    let kind = if arguments.private {
        "a private"
    } else {
        "a public"
    };
    if !arguments.no_verify {
        terminal::print("would evaluate the checkpoint and compare it with its claimed accuracy")?;
    }
    terminal::print(format_args!(
        "would create {} as {kind} repository, unless it exists",
        repository.address()
    ))?;
    terminal::print(format_args!(
        "would commit to branch {}:",
        escape::line(&arguments.revision)
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
