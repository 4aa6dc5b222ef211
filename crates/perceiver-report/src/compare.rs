//! Comparison of runs: results, recipe differences, significance.

pub(crate) mod mcnemar;
pub(crate) mod names;
pub(crate) mod sweep;

use std::path::PathBuf;

use askama::Template;
use perceiver_model::Summary;
use perceiver_train::{Difference, Prediction, TestResults};
use serde::Serialize;

use crate::compare::mcnemar::McNemar;
use crate::compare::names::names;
use crate::error::{ReportError, Result};
use crate::page::charts::Chart;
use crate::page::curves;
use crate::page::figure::Figure;
use crate::page::range_bar::{RangeAxis, RangeBar};
use crate::page::timeline::Timeline;
use crate::page::timelines_json;
use crate::run::Run;
use crate::text::{exact_percent, grouped, interval, says_top5, time};

/// A comparison of runs with the same test images.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The results of each run.
    pub runs: Vec<RunFigures>,
    /// The recipe fields that differ between the runs.
    pub differences: Vec<FieldValues>,
    /// The pairwise significance tests.
    pub pairs: Vec<PairTest>,
    /// Whether top-5 accuracies are informative.
    #[serde(skip)]
    pub says_top5: bool,
}

/// The results of one run.
#[derive(Clone, Debug, Serialize)]
pub struct RunFigures {
    /// The name of the run in this comparison.
    pub name: String,
    /// The number of epochs trained.
    pub epochs: usize,
    /// The epoch, counted from 1, whose weights were kept.
    pub kept_epoch: Option<usize>,
    /// The duration of training and validation, in seconds.
    pub seconds: f64,
    /// The number of parameters of the model.
    pub parameters: usize,
    /// The test results.
    pub results: TestResults,
}

/// A recipe field and its values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldValues {
    /// The path of the field, such as `training.learning_rate`.
    pub field: String,
    /// The value in each run as TOML; `unset` where the field is absent.
    pub values: Vec<String>,
}

/// The result of [`McNemar`]'s test for two runs on the same test images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairTest {
    /// The first run.
    pub one: String,
    /// The second run.
    pub other: String,
    /// The accuracy of the first run minus that of the second.
    pub difference: f64,
    /// The number of images that only the first run classified correctly.
    pub only_one: u64,
    /// The number of images that only the second run classified correctly.
    pub only_other: u64,
    /// The two-sided p-value.
    pub p_value: f64,
}

#[derive(Template)]
#[template(path = "compare.html")]
struct Page<'a> {
    dataset: &'a str,
    pictures: String,
    runs: &'a [RunFigures],
    says_top5: bool,
    differences: &'a [FieldValues],
    pairs: &'a [PairTest],
    timelines: String,
    charts: Vec<Figure>,
    axis: RangeAxis,
}

impl Page<'_> {
    fn bar(&self, run: &RunFigures) -> RangeBar {
        self.axis.bar(run.results.acc, run.results.acc_interval_95)
    }
}

impl Comparison {
    /// Compares finished runs.
    ///
    /// # Errors
    /// When there are not 2 to 10 runs, a run has no predictions for each test image, or the test
    /// images differ.
    pub fn new(runs: &[Run]) -> Result<Self> {
        if !(2..=Chart::MOST_CURVES).contains(&runs.len()) {
            return Err(ReportError::RunCount {
                most: Chart::MOST_CURVES,
                found: runs.len(),
            });
        }
        let names = names_of(runs);
        let evaluated = runs.iter().map(evaluated).collect::<Result<Vec<_>>>()?;
        let results = || {
            names
                .iter()
                .zip(&evaluated)
                .map(|(name, evaluated)| (name, evaluated.0))
        };
        for other in results().skip(1) {
            require_same_images((&names[0], evaluated[0].0), other)?;
        }
        let mut pairs = Vec::new();
        for (at, (one, (results, predictions))) in names.iter().zip(&evaluated).enumerate() {
            for (other, (others, other_predictions)) in names.iter().zip(&evaluated).skip(at + 1) {
                let test = McNemar::of(predictions, other_predictions);
                pairs.push(PairTest {
                    one: one.clone(),
                    other: other.clone(),
                    difference: results.acc - others.acc,
                    only_one: test.only_first,
                    only_other: test.only_second,
                    p_value: test.p_value,
                });
            }
        }
        let figures = runs.iter().zip(results());
        let figures = figures.map(|(run, (name, results))| {
            Ok(RunFigures {
                name: name.clone(),
                epochs: run.epochs.len(),
                kept_epoch: run.kept_epoch(),
                seconds: run.seconds(),
                parameters: Summary::new(&run.config.model)?.parameters(),
                results: results.clone(),
            })
        });
        Ok(Self {
            runs: figures.collect::<Result<_>>()?,
            differences: differences(runs)?,
            pairs,
            says_top5: runs.iter().any(|run| says_top5(run.config.classes.len())),
        })
    }

    /// Renders the comparison as HTML, with the training curves of the compared runs.
    ///
    /// # Errors
    /// When `runs` are not the compared runs.
    pub fn page(&self, runs: &[Run]) -> Result<String> {
        let results = &self.runs[0].results;
        let page = Page {
            dataset: &results.dataset,
            pictures: grouped(results.images as usize),
            runs: &self.runs,
            says_top5: self.says_top5,
            differences: &self.differences,
            pairs: &self.pairs,
            timelines: timelines_json(&runs.iter().map(Timeline::of_run).collect::<Vec<_>>())?,
            charts: curves::of_runs(runs, &names_of(runs))?,
            axis: RangeAxis::of(self.runs.iter().map(|run| run.results.acc_interval_95)),
        };
        Ok(page.render()?)
    }
}

fn names_of(runs: &[Run]) -> Vec<String> {
    let roots: Vec<PathBuf> = runs.iter().map(|run| run.root.clone()).collect();
    names(&roots)
}

/// Returns the test results and the predictions of a run.
fn evaluated(run: &Run) -> Result<(&TestResults, &[Prediction])> {
    let missing = |file: &str, finding: &str| ReportError::Disagree {
        path: run.root.join(file),
        expected: "a file of a finished run".to_string(),
        finding: finding.to_string(),
    };
    let results = run.results.as_ref();
    let results = results.ok_or_else(|| missing("results.json", "no such file"))?;
    let predictions = run.predictions.as_deref();
    let predictions = predictions.ok_or_else(|| missing("predictions.csv", "no such file"))?;
    if results.sha256.is_empty() {
        return Err(missing("results.json", "no sha256 of the test images"));
    }
    Ok((results, predictions))
}

fn require_same_images(
    (a, in_a): (&String, &TestResults),
    (b, in_b): (&String, &TestResults),
) -> Result<()> {
    let what = [
        (
            "number of test images",
            in_a.images.to_string(),
            in_b.images.to_string(),
        ),
        (
            "test images (sha256)",
            in_a.sha256.clone(),
            in_b.sha256.clone(),
        ),
    ];
    match what.into_iter().find(|(_, in_a, in_b)| in_a != in_b) {
        None => Ok(()),
        Some((what, in_a, in_b)) => Err(ReportError::NotComparable {
            a: a.clone(),
            b: b.clone(),
            what,
            in_a,
            in_b,
        }),
    }
}

/// Returns the recipe fields that differ between the runs, in alphabetical order.
fn differences(runs: &[Run]) -> Result<Vec<FieldValues>> {
    let mut fields: Vec<FieldValues> = Vec::new();
    for (at, run) in runs.iter().enumerate().skip(1) {
        for difference in Difference::between(&runs[0].recipe, &run.recipe)? {
            let known = fields
                .iter_mut()
                .find(|known| known.field == difference.field);
            if let Some(known) = known {
                known.values[at] = difference.found;
            } else {
                let mut values = vec![difference.expected; runs.len()];
                values[at] = difference.found;
                let field = difference.field;
                fields.push(FieldValues { field, values });
            }
        }
    }
    fields.sort_by(|a, b| a.field.cmp(&b.field));
    Ok(fields)
}

impl RunFigures {
    /// Formats the top-1 accuracy, such as `55.60%`.
    pub fn accuracy(&self) -> String {
        exact_percent(self.results.acc)
    }

    /// Formats the 95% interval of the accuracy, such as `54.62 to 56.57`.
    pub fn interval(&self) -> String {
        interval(self.results.acc_interval_95, 2)
    }

    /// Formats the balanced accuracy.
    pub fn balanced_accuracy(&self) -> String {
        self.results
            .balanced_acc
            .map_or_else(String::new, exact_percent)
    }

    /// Formats the macro F1.
    pub fn macro_f1(&self) -> String {
        self.results
            .macro_f1
            .map_or_else(String::new, exact_percent)
    }

    /// Formats the top-5 accuracy.
    pub fn top5(&self) -> String {
        exact_percent(self.results.top5_acc)
    }

    /// Formats the loss in nats.
    pub fn loss(&self) -> String {
        format!("{:.4}", self.results.loss)
    }

    /// Formats the training time in a suitable unit.
    pub fn time(&self) -> String {
        time(self.seconds)
    }

    /// Formats the number of parameters with thousands separators.
    pub fn grouped_parameters(&self) -> String {
        grouped(self.parameters)
    }
}

impl PairTest {
    /// Formats the difference in percentage points, such as `+1.25`.
    pub fn points(&self) -> String {
        format!("{:+.2}", 100.0 * self.difference)
    }

    /// Formats the p-value with its significant digits.
    pub fn p(&self) -> String {
        match self.p_value {
            p if p < 1e-300 => "< 1e-300".to_string(), // the limit of f64
            p if p < 0.0001 => format!("{p:.1e}"),
            p => format!("{p:.4}"),
        }
    }
}
