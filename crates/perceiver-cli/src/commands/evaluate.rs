//! `perceiver evaluate`: evaluates a checkpoint on the test split.

mod class_tables;
mod predictions_file;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use perceiver_data::{LoadOptions, Preprocessing, Samples, Source, TestSplit};
use perceiver_model::Classifier;
use perceiver_report::{Calibration, counted, says_top5};
use perceiver_train::{
    Checkpoint, ClassificationReport, ConfusionMatrix, Evaluation, Placement, SingleProcess,
    TestResults, TestTimeAugmentation, all_samples, test_samples, write_file,
};
use serde::Serialize;

use crate::args::checkpoint::CheckpointArgument;
use crate::args::compute::ComputeFlags;
use crate::args::errors::{at_least_one, usage_error};
use crate::args::flip_average::FlipAverageFlag;
use crate::commands::evaluate::class_tables::{confusion_csv, per_class_csv};
use crate::commands::evaluate::predictions_file::{Format, Predictions, TopClasses};
use crate::ui::data_progress;
use crate::ui::escape;
use crate::ui::progress::image_bar;
use crate::ui::terminal;

/// Evaluate a checkpoint on a test split.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The files of --confusion, --per-class and --predictions have the names of the classes. Precision, recall and F1 are scikit-learn's, with zero_division=0: the precision of a class that is never predicted is 0, and so is the recall of a class without images. The averages are over the classes that have images or predictions.

Examples:
  perceiver evaluate runs/shapes-quickstart-1
  perceiver evaluate runs/photos --dataset folder:other-photos --json
  perceiver evaluate runs/photos --confusion confusion.csv \\
      --per-class classes.csv --predictions predictions.json"
)]
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

    #[command(flatten)]
    flip: FlipAverageFlag,

    #[command(flatten)]
    compute: ComputeFlags,

    /// Print the results as JSON.
    #[arg(long)]
    json: bool,

    /// Write the confusion matrix to a CSV file: a row per true class, a column per predicted class.
    #[arg(long, value_name = "FILE", help_heading = "Tables")]
    confusion: Option<PathBuf>,

    /// Write precision, recall, F1 and support of every class to a CSV file, with their averages in
    /// the last two rows.
    #[arg(long, value_name = "FILE", help_heading = "Tables")]
    per_class: Option<PathBuf>,

    /// Write the prediction for every image to a .csv or .json file.
    #[arg(long, value_name = "FILE", help_heading = "Tables")]
    predictions: Option<PathBuf>,

    /// Number of most probable classes per image in --predictions.
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = at_least_one, help_heading = "Tables")]
    top_k: usize,
}

/// The results of `--json`.
#[derive(Debug, Serialize)]
struct Printed<'a> {
    #[serde(flatten)]
    results: &'a TestResults,
    /// The expected calibration error, as in reports; only with `--per-class`.
    #[serde(skip_serializing_if = "Option::is_none")]
    calibration_error: Option<f64>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    arguments.require_writable()?;
    let checkpoint = arguments
        .checkpoint
        .required()?
        .open(arguments.compute.device)?;
    let checkpoint = arguments.compute.in_precision(checkpoint)?;
    let as_in_training = checkpoint.config.data.flip_average;
    let views = TestTimeAugmentation::new(arguments.flip.flip_average.unwrap_or(as_in_training));
    let card_limit = checkpoint.config.data.limit_test;
    let as_in_training = card_limit.filter(|_| arguments.dataset.is_none());
    let data = TestData {
        dataset: arguments.dataset.as_ref(),
        data_dir: &arguments.data_dir,
        limit: arguments.limit_test.or(as_in_training),
        may_be_whole: true,
    };
    let mut top = TopClasses::new(arguments.top_k);
    let keeps_top = arguments.predictions.is_some();
    let (test, evaluation) = evaluated(&checkpoint, views, &data, &mut |probabilities| {
        if keeps_top {
            top.push(probabilities);
        }
    })?;
    arguments.write_tables(&checkpoint.config.classes, &test, &evaluation, &top)?;
    let results = TestResults::new(&test, &evaluation);
    if arguments.json {
        // Without tables, the output is that of results.json.
        let of_tables = arguments.per_class.as_ref();
        let calibration = of_tables.and_then(|_| Calibration::of(&evaluation.predictions));
        let printed = Printed {
            results: &results,
            calibration_error: calibration.map(|calibration| calibration.error),
        };
        terminal::print_json(&printed, true)?;
    } else {
        print(&results, checkpoint.config.classes.len())?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Arguments {
    /// Checks before the evaluation that its tables can be written after it.
    fn require_writable(&self) -> Result<()> {
        let tables = [
            ("--confusion", &self.confusion),
            ("--per-class", &self.per_class),
            ("--predictions", &self.predictions),
        ];
        for (flag, path) in tables {
            let Some(path) = path else { continue };
            let shown = path.display();
            let format = Format::of(path);
            if format.is_none() || flag != "--predictions" && format != Some(Format::Csv) {
                let also = if flag == "--predictions" {
                    " or .json"
                } else {
                    ""
                };
                return Err(usage_error(anyhow!(
                    "{flag} {shown}: expected a name that ends in .csv{also}"
                )));
            }
            let parent = path.parent().filter(|parent| *parent != Path::new(""));
            if path.is_dir() || parent.is_some_and(|parent| !parent.is_dir()) {
                return Err(usage_error(anyhow!(
                    "{flag} {shown}: expected a file in an existing directory"
                )));
            }
        }
        Ok(())
    }

    /// Writes the requested tables.
    fn write_tables(
        &self,
        classes: &[String],
        test: &Samples,
        evaluation: &Evaluation,
        top: &TopClasses,
    ) -> Result<()> {
        let predictions = evaluation.predictions.as_slice();
        if let Some(path) = &self.confusion {
            let matrix = ConfusionMatrix::new(predictions);
            write_file(path, &confusion_csv(&matrix, classes)?)?;
        }
        if let Some(path) = &self.per_class {
            let report = ClassificationReport::new(predictions).context("no predictions")?;
            write_file(path, &per_class_csv(&report, classes)?)?;
        }
        if let Some((path, format)) = self.predictions.as_ref().zip(self.predictions_format()) {
            let names = test.image_names()?;
            let all = Predictions {
                all: predictions,
                top,
                classes,
                names: names.as_deref(),
            };
            write_file(path, &all.encoded(format)?)?;
        }
        Ok(())
    }

    fn predictions_format(&self) -> Option<Format> {
        self.predictions.as_deref().and_then(Format::of)
    }
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
    let (test, evaluation) = evaluated(checkpoint, views, data, &mut |_| {})?;
    Ok(TestResults::new(&test, &evaluation))
}

/// Evaluates a checkpoint on a test split with a progress bar, and passes the probabilities of every
/// image to `each`, in order.
fn evaluated(
    checkpoint: &Checkpoint,
    views: TestTimeAugmentation,
    data: &TestData,
    each: &mut dyn FnMut(&[f32]),
) -> Result<(Samples, Evaluation)> {
    let test = test_split(data, checkpoint)?;
    let preprocessing = &checkpoint.config.preprocessing;
    let evaluation = with_progress(test.len(), |progress| {
        perceiver_train::evaluate_each(
            &*checkpoint.model,
            views,
            &test,
            preprocessing,
            &checkpoint.device().clone().into(),
            progress,
            &mut |_, probabilities| each(probabilities),
        )
    })?;
    Ok((test, evaluation))
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

/// Evaluates a model with a progress bar: `evaluate` gets the callback that moves it.
fn with_progress(
    images: usize,
    evaluate: impl FnOnce(&mut dyn FnMut(u64, u64)) -> perceiver_train::Result<Evaluation>,
) -> Result<Evaluation> {
    let bar = image_bar(images as u64, "testing");
    let evaluation = evaluate(&mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    Ok(evaluation)
}

/// Evaluates a model on test images with a progress bar.
pub(crate) fn with_bar(
    model: &dyn Classifier,
    views: TestTimeAugmentation,
    test: &Samples,
    preprocessing: &Preprocessing,
    placement: &Placement,
) -> Result<Evaluation> {
    with_progress(test.len(), |progress| {
        perceiver_train::evaluate(model, views, test, preprocessing, placement, progress)
    })
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
