//! `perceiver verify`: checks that a checkpoint reaches the accuracy it claims.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use perceiver_data::Source;
use perceiver_files::read_text;
use perceiver_report::claimed_accuracies;
use perceiver_train::{Checkpoint, DeviceChoice, TestResults, TestTimeAugmentation};

use crate::args::checkpoint::CheckpointArgument;
use crate::commands::evaluate::{TestData, measured};
use crate::ui::terminal;

/// The tolerated difference in accuracy: on another processor, rounding may change a few
/// predictions.
const TOLERANCE: f64 = 0.001;

/// Evaluate a checkpoint and compare it with its claimed accuracy.
///
/// The model card (README.md, `model-index`) and results.json may each state an accuracy on the
/// test split. Fail if one differs by more than 0.1 points from the measured accuracy.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  perceiver verify runs/shapes-quickstart-1
  perceiver verify someone/perceiver-cifar100 --data-dir data")]
pub(crate) struct Arguments {
    #[command(flatten)]
    checkpoint: CheckpointArgument,

    /// Current location of the data set, if it has moved since training.
    #[arg(long, value_name = "DATASET")]
    dataset: Option<Source>,

    /// Directory of downloaded data sets.
    #[arg(long, value_name = "DIR", default_value = "data")]
    data_dir: PathBuf,

    /// Device to compute on: auto, cpu, cuda, cuda:N or metal.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
}

/// An accuracy stated in a file.
struct Claim {
    file: &'static str,
    accuracy: f64,
    /// The hash of the test images, if stated.
    data: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let flags = arguments.checkpoint.required()?;
    let directory = flags.files(&["README.md", "results.json"])?;
    let checkpoint = flags.open_directory(&directory, arguments.device)?;
    let claims = claims_of(&directory)?;
    if claims.is_empty() {
        bail!(
            "{}: expected a README.md with an accuracy in its model-index, or a results.json, found neither; \
             `perceiver evaluate` measures without comparing",
            flags.shown()
        );
    }
    let dataset = arguments.dataset.as_ref();
    let results = measure(&checkpoint, dataset, &arguments.data_dir)?;
    compare(&claims, &results)?;
    if let Some(shared @ 1..) = checkpoint.config.data.init_overlap {
        tracing::warn!(
            "{}: {shared} test images of its initial checkpoint were used for training or validation, \
             so neither test result is on unseen images",
            flags.shown()
        );
    }
    let names: Vec<&str> = claims.iter().map(|claim| claim.file).collect();
    let (accuracy, images) = (percent(results.acc), results.images);
    let files = names.join(" and ");
    terminal::print(format_args!(
        "verified: accuracy {accuracy} on {images} images, as claimed by {files}"
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Evaluates a checkpoint as at the end of its training.
pub(crate) fn measure(
    checkpoint: &Checkpoint,
    dataset: Option<&Source>,
    data_dir: &Path,
) -> Result<TestResults> {
    let card = &checkpoint.config.data;
    let data = TestData {
        dataset,
        data_dir,
        limit: card.limit_test,
        may_be_whole: false,
    };
    measured(
        checkpoint,
        TestTimeAugmentation::new(card.flip_average),
        &data,
    )
}

/// Returns an error if the results differ from those claimed in `directory`.
#[cfg(feature = "hub")]
pub(crate) fn require_as_claimed(directory: &Path, results: &TestResults) -> Result<()> {
    compare(&claims_of(directory)?, results)
}

fn claims_of(directory: &Path) -> Result<Vec<Claim>> {
    let mut claims = Vec::new();
    let card = directory.join("README.md");
    if card.exists() {
        let text = read_text(&card).with_context(|| format!("cannot read {}", card.display()))?;
        let accuracies = claimed_accuracies(&text).with_context(|| card.display().to_string())?;
        claims.extend(accuracies.into_iter().map(|accuracy| Claim {
            file: "README.md",
            accuracy,
            data: None,
        }));
    }
    let results = directory.join("results.json");
    if results.exists() {
        let results = TestResults::read(&results)?;
        claims.push(Claim {
            file: "results.json",
            accuracy: results.acc,
            data: Some(results.sha256).filter(|sum| !sum.is_empty()),
        });
    }
    Ok(claims)
}

fn compare(claims: &[Claim], results: &TestResults) -> Result<()> {
    for claim in claims {
        let file = claim.file;
        if let Some(sum) = claim.data.as_ref().filter(|sum| **sum != results.sha256) {
            bail!(
                "{file}: expected test images with sha256 {sum}, found {}",
                results.sha256
            );
        }
        let off = (claim.accuracy - results.acc).abs();
        if off.is_nan() || off > TOLERANCE {
            bail!(
                "{file}: expected accuracy {} on {} test images, found {}; they may differ by {} at most",
                percent(claim.accuracy),
                results.images,
                percent(results.acc),
                percent(TOLERANCE)
            );
        }
    }
    Ok(())
}

fn percent(share: f64) -> String {
    format!("{:.2}%", 100.0 * share)
}
