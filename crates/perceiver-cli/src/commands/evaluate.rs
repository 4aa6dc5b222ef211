//! `perceiver evaluate`: evaluates a checkpoint on the test split.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use perceiver_data::{LoadOptions, Preprocessing, Samples, Source, TestSplit};
use perceiver_model::Classifier;
use perceiver_report::{counted, says_top5};
use perceiver_train::{
    Checkpoint, DeviceChoice, Evaluation, Placement, Precision, SingleProcess, TestResults,
    TestTimeAugmentation, all_samples, test_samples,
};

use crate::args::checkpoint::CheckpointArgument;
use crate::args::errors::at_least_one;
use crate::ui::data_progress;
use crate::ui::escape;
use crate::ui::progress::image_bar;
use crate::ui::terminal;

/// Evaluate a checkpoint on a test split.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  perceiver evaluate runs/shapes-quickstart-1
  perceiver evaluate runs/photos --dataset folder:other-photos --json")]
pub(crate) struct Arguments {
    #[command(flatten)]
    checkpoint: CheckpointArgument,

    /// Data set with the same classes [default: that of training]. Without splits, all its images
    /// are used; if the checkpoint was trained on it, only those held out from training.
    #[arg(long, value_name = "DATASET")]
    dataset: Option<Source>,

    /// Directory of downloaded data sets.
    #[arg(long, value_name = "DIR", default_value = "data")]
    data_dir: PathBuf,

    /// Use only the first N test images [default: as in training].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    limit_test: Option<usize>,

    /// Average the probabilities of each image and its mirror image, or not [default: as in
    /// training].
    #[arg(long, visible_alias = "test-time-flip", value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    flip_average: Option<bool>,

    /// Device to compute on: auto, cpu, cuda, cuda:N or metal.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,

    /// Compute precision: f32, bf16, or on an NVIDIA GPU tf32.
    #[arg(long, value_name = "PRECISION", default_value = "f32")]
    precision: Precision,

    /// Print the results as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let checkpoint = arguments.checkpoint.required()?.open(arguments.device)?;
    let checkpoint = checkpoint.in_precision(arguments.precision)?;
    crate::runtime::kernels::log_bf16(checkpoint.device(), arguments.precision);
    let as_in_training = checkpoint.config.data.flip_average;
    let views = TestTimeAugmentation::new(arguments.flip_average.unwrap_or(as_in_training));
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

/// The images to evaluate a checkpoint on.
pub(crate) struct TestData<'a> {
    /// The data set, if it is not that of training.
    pub(crate) dataset: Option<&'a Source>,
    pub(crate) data_dir: &'a Path,
    /// The maximum number of images; the first ones are used.
    pub(crate) limit: Option<usize>,
    /// Whether `dataset` may differ from that of training; without splits, all its images are then
    /// used.
    pub(crate) may_be_whole: bool,
}

/// Evaluates a checkpoint on a test split with a progress bar.
pub(crate) fn measured(
    checkpoint: &Checkpoint,
    views: TestTimeAugmentation,
    data: &TestData,
) -> Result<TestResults> {
    let test = test_split(data, checkpoint)?;
    let preprocessing = &checkpoint.config.preprocessing;
    let evaluation = with_bar(
        &*checkpoint.model,
        views,
        &test,
        preprocessing,
        &checkpoint.device().clone().into(),
    )?;
    Ok(TestResults::new(&test, &evaluation))
}

fn test_split(data: &TestData, checkpoint: &Checkpoint) -> Result<Samples> {
    let card = &checkpoint.config.data;
    let mut options = LoadOptions {
        data_dir: data.data_dir.to_owned(),
        labels: card.labels,
        shorter_side: checkpoint.config.shorter_side(),
        seed: card.split_seed(),
        watcher: data_progress::watcher(),
        ..LoadOptions::default()
    };
    let Some(dataset) = data.dataset.or(card.dataset.as_ref()) else {
        bail!("--dataset: expected a data set, as the checkpoint does not name its training data");
    };
    let classes = &checkpoint.config.classes;
    let context =
        || format!("cannot evaluate on {dataset}; give its location by --dataset or --data-dir");
    options.listing = dataset.listing(&options).with_context(context)?;
    if let (Some(listing), true) = (&options.listing, data.may_be_whole) {
        listing.log_summary();
    }
    let whole = if data.may_be_whole && data.dataset.is_some() {
        all_samples(dataset, &options, data.limit, classes, card).with_context(context)?
    } else {
        None
    };
    match whole {
        Some(whole) => Ok(whole),
        None => test_samples(dataset, &options, data.limit, classes, &SingleProcess)
            .with_context(context),
    }
}

/// Evaluates a model with a progress bar.
pub(crate) fn with_bar(
    model: &dyn Classifier,
    views: TestTimeAugmentation,
    test: &Samples,
    preprocessing: &Preprocessing,
    placement: &Placement,
) -> Result<Evaluation> {
    let bar = image_bar(test.len() as u64, "testing");
    let mut show = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let evaluation =
        perceiver_train::evaluate(model, views, test, preprocessing, placement, &mut show)?;
    bar.finish_and_clear();
    Ok(evaluation)
}

/// Describes the number and origin of the evaluated images.
fn describe_test_images(results: &TestResults) -> String {
    let (images, counted) = (results.images, counted(results.images as usize, "image"));
    match (results.split, results.of) {
        (TestSplit::Own, _) => counted,
        (TestSplit::Validation, _) => {
            format!("{counted} of its validation split (no test split)")
        }
        (TestSplit::HeldOut, Some(of)) => {
            format!("{images} of {of} images, held out from training")
        }
        (TestSplit::HeldOut, None) => format!("{counted}, held out from training"),
        (TestSplit::Whole, Some(of)) if of > images => {
            format!("{images} of {of} images (no test split)")
        }
        (TestSplit::Whole, _) => format!("all {counted} (no test split)"),
    }
}

/// Prints the results of a model with `classes` classes for people.
pub(crate) fn print(results: &TestResults, classes: usize) -> Result<()> {
    let percent = |share: f64, [low, high]: [f64; 2]| {
        format!(
            "{:.2}% (95% interval {:.2} to {:.2})",
            100.0 * share,
            100.0 * low,
            100.0 * high
        )
    };
    let mut figures = vec![("accuracy", percent(results.acc, results.acc_interval_95))];
    if let Some(share) = results.balanced_acc {
        figures.push(("balanced accuracy", format!("{:.2}%", 100.0 * share)));
    }
    if let Some(share) = results.macro_f1 {
        figures.push(("macro F1", format!("{:.2}%", 100.0 * share)));
    }
    if says_top5(classes) {
        let share = percent(results.top5_acc, results.top5_acc_interval_95);
        figures.push(("top-5 accuracy", share));
    }
    figures.push(("loss", format!("{:.4}", results.loss)));
    let head = format!(
        "test results on {}, {}",
        escape::line(&results.dataset),
        describe_test_images(results)
    );
    let figures = figures.iter();
    let lines = figures.map(|(name, figure)| format!("  {name:<17}  {figure}"));
    let lines: Vec<String> = std::iter::once(head).chain(lines).collect();
    Ok(terminal::print(lines.join("\n"))?)
}
