//! `report.html`: a self-contained page.

pub(crate) mod calibration;
pub(crate) mod charts;
pub(crate) mod confusion;
pub(crate) mod confusion_matrix;
pub(crate) mod curves;
pub(crate) mod gallery;
pub(crate) mod per_class;

use std::path::PathBuf;

use askama::Template;
use candle_core::Device;
use perceiver_data::{Groups, Samples};
use perceiver_model::{ModelConfig, Summary};
use perceiver_train::{
    Checkpoint, Prediction, RunDirectory, TestResults, wilson_interval, write_file,
};

use crate::error::{ReportError, Result};
use crate::page::calibration::Calibration;
use crate::page::confusion::Confusion;
use crate::page::confusion_matrix::Matrix;
use crate::page::curves::Drawn;
use crate::page::gallery::{AttentionExample, Shown, Test};
use crate::page::per_class::{per_class, per_group};
use crate::run::{REPEAT, Run};
use crate::text::{counted, exact_percent, grouped, interval, percent, says_top5, share, time};

pub(crate) const CSS: &str = include_str!("../templates/page.css");
pub(crate) const JS: &str = include_str!("../templates/page.js");

/// The maximum number of class pairs in the list of confusions.
const MOST_PAIRS: usize = 15;

/// The optional content of a report, in addition to the files of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shows<'a> {
    /// The test images that the predictions belong to.
    pub test: Option<&'a Samples>,
    /// The model, for attention maps.
    pub checkpoint: Option<&'a Checkpoint>,
    /// A note for the top of the report, such as what is missing and why.
    pub note: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "report.html")]
struct Page {
    name: String,
    lead: String,
    verdict: Option<ResultFigures>,
    notes: Vec<String>,
    learned: String,
    charts: Vec<Drawn>,
    warnings: Vec<WarningRow>,
    diagnosis_charts: Vec<Drawn>,
    groups: Vec<GroupRow>,
    classes: Vec<ClassRow>,
    says_top5: bool,
    matrix: Matrix,
    pairs: Vec<PairRow>,
    calibrated: String,
    calibration_charts: Vec<Drawn>,
    wrong: Vec<Shown>,
    right: Vec<Shown>,
    looks: Vec<AttentionExample>,
    latents: usize,
    facts: Vec<(&'static str, String)>,
    command: String,
    recipe: String,
}

/// Test results, formatted.
struct ResultFigures {
    accuracy: String,
    accuracy_interval: String,
    balanced_accuracy: Option<String>,
    macro_f1: Option<String>,
    top5: String,
    top5_interval: String,
    loss: String,
    pictures: String,
    dataset: String,
    split: &'static str,
}

/// A warning raised during the run.
struct WarningRow {
    epoch: usize,
    step: u64,
    finding: String,
    cause: String,
    cure: String,
}

/// A row of the table of coarse classes.
struct GroupRow {
    name: String,
    right: f64,
    right_percent: String,
    in_group: f64,
    in_group_percent: String,
    pictures: u64,
}

/// A row of the table of classes.
struct ClassRow {
    name: String,
    right: f64,
    percent: String,
    interval: String,
    top5: f64,
    top5_percent: String,
    pictures: u64,
    taken_for: String,
}

/// A row of the table of confused pairs.
struct PairRow {
    label: String,
    predicted: String,
    count: u64,
    share: f64,
    percent: String,
    reverse: u64,
}

/// Writes the `report.html` of a finished run that was tested on `test`, and returns its path.
///
/// # Errors
/// When the run has no results, or those of other images; when a file of the run cannot be read; and
/// as for [`report()`].
pub fn write_report(directory: &RunDirectory, test: &Samples) -> Result<PathBuf> {
    let run = Run::read(directory)?;
    let tested = run.results.as_ref().map(|results| results.sha256.clone());
    let (tested, given) = (tested.unwrap_or_default(), test.sha256());
    if tested != given {
        return Err(ReportError::Disagree {
            path: directory.results(),
            expected: format!("results of these test images, sha256 {given}"),
            finding: format!("{tested:?}"),
        });
    }
    let checkpoint = Checkpoint::open(directory.root(), &Device::Cpu)?;
    let shows = Shows {
        test: Some(test),
        checkpoint: Some(&checkpoint),
        note: None,
    };
    let path = directory.report();
    write_file(&path, report(&run, &shows)?.as_bytes())?;
    Ok(path)
}

/// Renders the report of a run as HTML. The output is deterministic.
///
/// # Errors
/// When the test images or the model do not belong to the run.
pub fn report(run: &Run, shows: &Shows<'_>) -> Result<String> {
    let predictions = run.predictions.as_deref().unwrap_or_default();
    let classes = &run.config.classes;
    let groups = shows.test.and_then(Samples::groups);
    let confusion = Confusion::of(predictions);
    let calibration = Calibration::of(predictions);
    let (mut wrong, mut right, mut looks) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(test) = shows.test {
        let test = &Test::new(test)?;
        (wrong, right) = gallery::wrong_and_right(predictions, test, classes)?;
        if let Some(checkpoint) = shows.checkpoint {
            looks = gallery::attention_examples(predictions, test, checkpoint)?;
        }
    }
    let mut notes: Vec<String> = shows.note.map(str::to_string).into_iter().collect();
    if run.results.is_none() {
        notes.push(
            "The run is not finished: the test split has not been evaluated yet.".to_string(),
        );
    }
    let page = Page {
        name: run.name.clone(),
        lead: lead(run)?,
        verdict: run.results.as_ref().map(ResultFigures::new),
        notes,
        learned: learned(run),
        charts: curves::of_run(&run.epochs, classes.len())?,
        warnings: warning_rows(run),
        diagnosis_charts: curves::of_diagnosis(&run.epochs)?,
        groups: group_rows(predictions, groups),
        classes: class_rows(predictions, classes),
        says_top5: says_top5(classes.len()),
        matrix: Matrix::new(&confusion, classes, groups)?,
        pairs: pair_rows(&confusion, classes),
        calibrated: calibration.as_ref().map(calibrated).unwrap_or_default(),
        calibration_charts: match &calibration {
            Some(calibration) => {
                vec![
                    Drawn::reliability(calibration)?,
                    Drawn::confidence_histogram(predictions)?,
                ]
            }
            None => Vec::new(),
        },
        wrong,
        right,
        looks,
        latents: shown_latents(&run.config.model),
        facts: facts(run),
        command: REPEAT.to_string(),
        recipe: run.recipe.to_toml()?,
    };
    Ok(page.render()?)
}

/// Returns the number of latents of a model; 0 for one without.
fn shown_latents(model: &ModelConfig) -> usize {
    match model {
        ModelConfig::Perceiver(config) => config.latent_dim,
        ModelConfig::PerceiverIo(config) => config.num_latents,
        ModelConfig::Custom(_) => 0,
    }
}

fn lead(run: &Run) -> Result<String> {
    let parameters = grouped(Summary::new(&run.config.model)?.parameters());
    let (data, classes) = (&run.config.data, run.config.classes.len());
    let learned = match data.train_images {
        0 => String::new(),
        images => format!(", {} training images", grouped(images)),
    };
    let dataset = &run.recipe.data.dataset;
    Ok(format!(
        "A Perceiver of {parameters} parameters on {dataset}: {classes} classes{learned}."
    ))
}

fn learned(run: &Run) -> String {
    let epochs = counted(run.epochs.len(), "epoch");
    let kept = run.kept_epoch().map_or_else(String::new, |kept| {
        format!(" The weights of epoch {kept} were kept: it has the lowest validation loss.")
    });
    format!("{epochs} in {}.{kept}", time(run.seconds()))
}

fn warning_rows(run: &Run) -> Vec<WarningRow> {
    let all = run.epochs.iter().flat_map(|epoch| {
        let warnings = epoch.warnings.iter();
        warnings.map(|warning| WarningRow {
            epoch: epoch.epoch,
            step: warning.step,
            finding: warning.finding.clone(),
            cause: warning.cause.clone(),
            cure: warning.cure.clone(),
        })
    });
    all.collect()
}

fn group_rows(predictions: &[Prediction], groups: Option<&Groups>) -> Vec<GroupRow> {
    let Some(groups) = groups else {
        return Vec::new();
    };
    let mut rows: Vec<GroupRow> = per_group(predictions, groups)
        .into_iter()
        .map(|figures| {
            let [right, in_group] =
                [figures.right, figures.in_group].map(|count| share(count, figures.images));
            GroupRow {
                name: groups.names[figures.group as usize].clone(),
                right,
                right_percent: percent(right),
                in_group,
                in_group_percent: percent(in_group),
                pictures: figures.images,
            }
        })
        .collect();
    rows.sort_by(|a, b| a.right.total_cmp(&b.right));
    rows
}

fn class_rows(predictions: &[Prediction], classes: &[String]) -> Vec<ClassRow> {
    let name = |class: u32| &classes[class as usize];
    let mut rows: Vec<ClassRow> = per_class(predictions, classes.len())
        .into_iter()
        .map(|figures| {
            let [right, top5] =
                [figures.right, figures.in_top5].map(|count| share(count, figures.images));
            ClassRow {
                name: name(figures.class).clone(),
                right,
                percent: percent(right),
                interval: interval(wilson_interval(right, figures.images), 0),
                top5,
                top5_percent: percent(top5),
                pictures: figures.images,
                taken_for: figures
                    .taken_for
                    .map_or_else(String::new, |(class, count)| {
                        format!("{} ({count})", name(class))
                    }),
            }
        })
        .collect();
    rows.sort_by(|a, b| a.right.total_cmp(&b.right));
    rows
}

fn pair_rows(confusion: &Confusion, classes: &[String]) -> Vec<PairRow> {
    let name = |class: u32| classes[class as usize].clone();
    let pairs = confusion.pairs().into_iter().take(MOST_PAIRS);
    let rows = pairs.map(|pair| {
        let share = share(pair.count, pair.of);
        PairRow {
            label: name(pair.label),
            predicted: name(pair.predicted),
            count: pair.count,
            share,
            percent: percent(share),
            reverse: pair.reverse,
        }
    });
    rows.collect()
}

fn calibrated(calibration: &Calibration) -> String {
    let Calibration {
        error,
        confidence,
        accuracy,
        ..
    } = calibration;
    let assessment = match confidence - accuracy {
        gap if gap > 0.02 => "overconfident",
        gap if gap < -0.02 => "underconfident",
        _ => "well calibrated",
    };
    format!(
        "Mean confidence {}, accuracy {}: {assessment}. Expected calibration error {}, over bins of equal width. \
         The thin line is perfect calibration.",
        percent(*confidence),
        percent(*accuracy),
        exact_percent(*error)
    )
}

fn facts(run: &Run) -> Vec<(&'static str, String)> {
    let training = &run.recipe.training;
    let mut facts = vec![
        ("Data set", run.recipe.data.dataset.to_string()),
        ("Seed", training.seed.to_string()),
        ("Epochs", run.epochs.len().to_string()),
        ("Training time", time(run.seconds())),
    ];
    if let Some(last) = run.epochs.last() {
        let rate = grouped(last.images_per_second.round() as usize);
        facts.push(("Speed", format!("{rate} images/s")));
    }
    if let Some(budget) = training.budget {
        facts.push(("Budget", budget.to_string()));
    }
    match &run.environment {
        Some(here) => {
            facts.push(("Program", format!("perceiver {}", here.version)));
            facts.push((
                "System",
                format!("{} on {}", here.system, here.architecture),
            ));
            let of = |name: &String| format!("{} cores of {name}", here.cores);
            let processor = here.processor.as_ref().map(of);
            let processor = processor.unwrap_or_else(|| format!("{} cores", here.cores));
            facts.push(("Processor", processor));
            facts.push(("Device", here.device.clone()));
        }
        None => facts.push(("Machine", "not recorded".to_string())),
    }
    let sha256 = &run.config.data.train_sha256;
    if !sha256.is_empty() {
        facts.push(("Training data, sha256", sha256.clone()));
    }
    if let Some(results) = run.results.as_ref().filter(|r| !r.sha256.is_empty()) {
        facts.push(("Test data, sha256", results.sha256.clone()));
    }
    facts
}

impl ResultFigures {
    fn new(results: &TestResults) -> Self {
        Self {
            accuracy: exact_percent(results.acc),
            accuracy_interval: interval(results.acc_interval_95, 1),
            balanced_accuracy: results.balanced_acc.map(exact_percent),
            macro_f1: results.macro_f1.map(exact_percent),
            top5: exact_percent(results.top5_acc),
            top5_interval: interval(results.top5_acc_interval_95, 1),
            loss: format!("{:.4}", results.loss),
            pictures: grouped(results.images as usize),
            split: results.split_description(),
            dataset: results.dataset.clone(),
        }
    }
}
