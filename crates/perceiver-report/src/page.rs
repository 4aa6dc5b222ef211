//! `report.html`: a self-contained page.

pub(crate) mod calibration;
pub(crate) mod calibration_charts;
pub(crate) mod charts;
pub(crate) mod class_details;
pub(crate) mod class_table;
pub(crate) mod confusion_matrix;
pub(crate) mod curves;
pub(crate) mod diagnosis_curves;
pub(crate) mod facts;
pub(crate) mod figure;
pub(crate) mod gallery;
pub(crate) mod live;
pub(crate) mod per_class;
pub(crate) mod range_bar;
pub(crate) mod timeline;

use std::path::PathBuf;

use askama::Template;
use candle_core::Device;
use perceiver_data::Samples;
use perceiver_model::{ModelConfig, Summary};
use perceiver_train::{Checkpoint, ConfusionMatrix, RunDirectory, TestResults, write_file};

use crate::error::{ReportError, Result};
use crate::page::calibration::Calibration;
use crate::page::class_details::{ClassDetails, class_details};
use crate::page::class_table::ClassTables;
use crate::page::confusion_matrix::Matrix;
use crate::page::facts::facts;
use crate::page::figure::Figure;
use crate::page::gallery::{AttentionExample, Shown, Test};
use crate::page::live::Live;
use crate::page::timeline::Timeline;
use crate::run::{REPEAT, Run};
use crate::text::{
    counted, exact_percent, grouped, interval, json_in_page, percent, says_top5, share, time,
};

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
    /// What the run does now, on a page that follows it.
    live: Option<Live>,
    lead: String,
    verdict: Option<ResultFigures>,
    notes: Vec<String>,
    learned: String,
    timelines: String,
    charts: Vec<Figure>,
    warnings: Vec<WarningRow>,
    diagnosis_charts: Vec<Figure>,
    tables: ClassTables,
    details: Vec<ClassDetails>,
    top_k_charts: Vec<Figure>,
    says_top5: bool,
    matrix: Matrix,
    pairs: Vec<PairRow>,
    calibrated: String,
    calibration_charts: Vec<Figure>,
    wrong: Vec<Shown>,
    right: Vec<Shown>,
    looks: Vec<AttentionExample>,
    latents: usize,
    facts: Vec<(&'static str, String)>,
    /// The command that started the run, if it is known.
    started_by: Option<String>,
    command: &'static str,
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
    let mut page = page(run, shows)?;
    if run.results.is_none() {
        page.notes.push(
            "The run is not finished: the test split has not been evaluated yet.".to_string(),
        );
    }
    Ok(page.render()?)
}

/// Creates the content of a report.
fn page(run: &Run, shows: &Shows<'_>) -> Result<Page> {
    let predictions = run.predictions.as_deref().unwrap_or_default();
    let classes = &run.config.classes;
    let groups = shows.test.and_then(Samples::groups);
    let confusion = ConfusionMatrix::new(predictions);
    let calibration = Calibration::of(predictions);
    let (mut wrong, mut right, mut looks) = (Vec::new(), Vec::new(), Vec::new());
    let test = shows.test.map(Test::new).transpose()?;
    if let Some(test) = &test {
        (wrong, right) = gallery::wrong_and_right(predictions, test, classes)?;
        if let Some(checkpoint) = shows.checkpoint {
            looks = gallery::attention_examples(predictions, test, checkpoint)?;
        }
    }
    let tables = ClassTables::new(predictions, classes, groups);
    let details = &tables.classes;
    Ok(Page {
        name: run.name.clone(),
        live: None,
        lead: lead(run)?,
        verdict: run.results.as_ref().map(ResultFigures::new),
        notes: shows.note.map(str::to_string).into_iter().collect(),
        learned: learned(run),
        timelines: timelines_json(&[Timeline::of_run(run)])?,
        charts: curves::of_run(run)?,
        warnings: warning_rows(run),
        diagnosis_charts: diagnosis_curves::of_diagnosis(&run.epochs)?,
        details: class_details(details, predictions, &confusion, test.as_ref(), classes)?,
        tables,
        top_k_charts: class_table::top_k(predictions, classes.len())?
            .into_iter()
            .collect(),
        says_top5: says_top5(classes.len()),
        matrix: Matrix::new(&confusion, classes, groups)?,
        pairs: pair_rows(&confusion, classes),
        calibrated: calibration.as_ref().map(calibrated).unwrap_or_default(),
        calibration_charts: match &calibration {
            Some(calibration) => {
                vec![
                    calibration_charts::reliability(calibration)?,
                    calibration_charts::histogram(predictions)?,
                ]
            }
            None => Vec::new(),
        },
        wrong,
        right,
        looks,
        latents: shown_latents(&run.config.model),
        facts: facts(run),
        started_by: run
            .environment
            .as_ref()
            .and_then(|here| here.command.clone()),
        command: REPEAT,
        recipe: run.recipe.to_toml()?,
    })
}

/// Serializes timelines for `page.js`.
pub(crate) fn timelines_json(timelines: &[Timeline]) -> Result<String> {
    let json = json_in_page(&timelines).map_err(std::io::Error::from);
    Ok(json.map_err(image::ImageError::IoError)?)
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
    if run.epochs.is_empty() {
        return "No epoch is complete yet.".to_string();
    }
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

fn pair_rows(confusion: &ConfusionMatrix, classes: &[String]) -> Vec<PairRow> {
    let name = |class: u32| classes[class as usize].clone();
    let pairs = confusion.confused_pairs().into_iter().take(MOST_PAIRS);
    let rows = pairs.map(|pair| {
        let share = share(pair.count, pair.support);
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
         The thin line is perfect calibration; bars are 95% intervals, and the numbers below count images.",
        percent(*confidence),
        percent(*accuracy),
        exact_percent(*error)
    )
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
