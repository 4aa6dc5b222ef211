//! `perceiver evaluate`: a checkpoint's verdict on the test split, the same that its training ended with.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use perceiver_data::{LoadOptions, Pictures, Preprocessing, Source, TestSplit};
use perceiver_model::Perceiver;
use perceiver_report::{counted, says_top5};
use perceiver_train::{
    Alone, Checkpoint, DeviceChoice, Evaluation, Precision, TestResults, Views, Workplace,
    test_pictures, whole_pictures,
};

use crate::checkpoint::CheckpointArgument;
use crate::escape;
use crate::progress::picture_bar;
use crate::reading_bars;
use crate::terminal;
use crate::wrong_arguments::at_least_one;

/// Measure a checkpoint on a test split.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  perceiver evaluate runs/shapes-quickstart-1
  perceiver evaluate runs/photos --dataset folder:other-photos --json")]
pub(crate) struct Arguments {
    #[command(flatten)]
    checkpoint: CheckpointArgument,

    /// Data set, of the same classes [default: the one the checkpoint was trained on]. One without splits is judged whole, unless
    /// the checkpoint was trained on it: then only by the images that were kept from training.
    #[arg(long, value_name = "DATASET")]
    dataset: Option<Source>,

    /// Where fetched data sets lie.
    #[arg(long, value_name = "DIR", default_value = "data")]
    data_dir: PathBuf,

    /// Use the first N test pictures only [default: as in training].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    limit_test: Option<usize>,

    /// Judge by the mean probabilities of a picture and its mirror image, or not [default: as in training].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    flip_average: Option<bool>,

    /// Where to compute: auto, cpu, cuda, cuda:N or metal.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,

    /// In what numbers: f32, bf16, or on an NVIDIA GPU tf32.
    #[arg(long, value_name = "PRECISION", default_value = "f32")]
    precision: Precision,

    /// Print the results as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let checkpoint = arguments.checkpoint.required()?.open(arguments.device)?;
    let checkpoint = checkpoint.in_precision(arguments.precision)?;
    let as_in_training = checkpoint.config.data.flip_average;
    let views = Views::new(arguments.flip_average.unwrap_or(as_in_training));
    let card_limit = checkpoint.config.data.limit_test;
    let as_in_training = card_limit.filter(|_| arguments.dataset.is_none());
    let data = TestData {
        dataset: arguments.dataset.as_ref(),
        data_dir: &arguments.data_dir,
        limit: arguments.limit_test.or(as_in_training),
        may_be_whole: true,
    };
    let results = measured(&checkpoint, views, &data)?;
    if arguments.json {
        terminal::print_json(&results, true)?;
    } else {
        print(&results, checkpoint.config.classes.len())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Which pictures to judge a checkpoint by.
pub(crate) struct TestData<'a> {
    /// Other than the one it was trained on.
    pub(crate) dataset: Option<&'a Source>,
    pub(crate) data_dir: &'a Path,
    /// The first so many pictures only.
    pub(crate) limit: Option<usize>,
    /// Whether `dataset` may be another than the one in training, to be judged by all its images if it has no splits.
    pub(crate) may_be_whole: bool,
}

/// What a checkpoint comes to on a test split, measured under a progress bar.
pub(crate) fn measured(
    checkpoint: &Checkpoint,
    views: Views,
    data: &TestData,
) -> Result<TestResults> {
    let test = test_split(data, checkpoint)?;
    let preprocessing = &checkpoint.config.preprocessing;
    let evaluation = with_bar(
        &checkpoint.model,
        views,
        &test,
        preprocessing,
        &checkpoint.device().clone().into(),
    )?;
    Ok(TestResults::new(&test, &evaluation.sums))
}

fn test_split(data: &TestData, checkpoint: &Checkpoint) -> Result<Pictures> {
    let card = &checkpoint.config.data;
    let mut options = LoadOptions {
        data_dir: data.data_dir.to_owned(),
        labels: card.labels,
        shorter_side: checkpoint.config.shorter_side(),
        seed: card.split_seed(),
        watcher: reading_bars::watcher(),
        ..LoadOptions::default()
    };
    let Some(dataset) = data.dataset.or(card.dataset.as_ref()) else {
        bail!("--dataset: expected one, since the checkpoint does not say what it was trained on");
    };
    let classes = &checkpoint.config.classes;
    let context =
        || format!("cannot evaluate on {dataset}; --dataset and --data-dir say where it is");
    options.listing = dataset.listing(&options).with_context(context)?;
    if let (Some(listing), true) = (&options.listing, data.may_be_whole) {
        listing.say();
    }
    let whole = if data.may_be_whole && data.dataset.is_some() {
        whole_pictures(dataset, &options, data.limit, classes, card).with_context(context)?
    } else {
        None
    };
    match whole {
        Some(whole) => Ok(whole),
        None => test_pictures(dataset, &options, data.limit, classes, &Alone).with_context(context),
    }
}

/// Evaluates under a progress bar.
pub(crate) fn with_bar(
    model: &Perceiver,
    views: Views,
    test: &Pictures,
    preprocessing: &Preprocessing,
    place: &Workplace,
) -> Result<Evaluation> {
    let bar = picture_bar(test.len() as u64, "testing");
    let mut show = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let evaluation =
        perceiver_train::evaluate(model, views, test, preprocessing, place, &mut show)?;
    bar.finish_and_clear();
    Ok(evaluation)
}

/// Which pictures, and how many, results are about.
fn judged_by(results: &TestResults) -> String {
    let (images, counted) = (results.images, counted(results.images as usize, "picture"));
    match (results.split, results.of) {
        (TestSplit::Own, _) => counted,
        (TestSplit::Validation, _) => {
            format!("{counted} of its validation split, as it has no test split")
        }
        (TestSplit::HeldOut, Some(of)) => {
            format!("{images} of {of} pictures, those kept from training")
        }
        (TestSplit::HeldOut, None) => format!("{counted} kept from training"),
        (TestSplit::Whole, Some(of)) if of > images => {
            format!("{images} of {of} pictures, as it has no test split")
        }
        (TestSplit::Whole, _) => format!("all {counted}, as it has no test split"),
    }
}

/// Prints results for people, of a model that tells so many classes apart.
pub(crate) fn print(results: &TestResults, classes: usize) -> Result<()> {
    let percent = |share: f64, [low, high]: [f64; 2]| {
        format!(
            "{:.2}% (95% interval {:.2} to {:.2})",
            100.0 * share,
            100.0 * low,
            100.0 * high
        )
    };
    let mut lines = vec![
        format!(
            "test of {} on {}",
            escape::line(&results.dataset),
            judged_by(results)
        ),
        format!(
            "  accuracy        {}",
            percent(results.acc, results.acc_interval_95)
        ),
    ];
    if says_top5(classes) {
        lines.push(format!(
            "  top-5 accuracy  {}",
            percent(results.top5_acc, results.top5_acc_interval_95)
        ));
    }
    lines.push(format!("  loss            {:.4}", results.loss));
    Ok(terminal::print(lines.join("\n"))?)
}
