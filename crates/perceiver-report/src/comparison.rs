//! Runs side by side: results, what their recipes differ in, and whether they differ by more than chance.

use std::path::PathBuf;

use askama::Template;
use perceiver_model::Summary;
use perceiver_train::{Difference, Prediction, TestResults};
use serde::Serialize;

use crate::charts::Chart;
use crate::curves::{self, Drawn};
use crate::error::{ReportError, Result};
use crate::mcnemar::McNemar;
use crate::names::names;
use crate::run::Run;
use crate::text::{exact_percent, grouped, interval, says_top5, time};

/// Runs that were judged by the same test pictures.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Each of them.
    pub runs: Vec<RunFigures>,
    /// The fields of their recipes that are not the same in all.
    pub differences: Vec<FieldValues>,
    /// Each with each.
    pub pairs: Vec<PairTest>,
    /// Whether the top-5 accuracies say something.
    #[serde(skip)]
    pub says_top5: bool,
}

/// What a run came to.
#[derive(Clone, Debug, Serialize)]
pub struct RunFigures {
    /// What it is called here.
    pub name: String,
    /// Epochs trained.
    pub epochs: usize,
    /// The epoch, from 1, whose weights were kept.
    pub kept_epoch: Option<usize>,
    /// Training and validation, in seconds.
    pub seconds: f64,
    /// Numbers in the model.
    pub parameters: usize,
    /// The test split's verdict.
    pub results: TestResults,
}

/// A field of the recipes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldValues {
    /// Its path, such as `training.learning_rate`.
    pub field: String,
    /// What it is in each run as TOML, `nothing` where it is not there.
    pub values: Vec<String>,
}

/// Two runs on the same pictures, by [`McNemar`]'s test.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairTest {
    /// A run.
    pub one: String,
    /// Another.
    pub other: String,
    /// The accuracy of the one less that of the other.
    pub difference: f64,
    /// Pictures that the one alone got right.
    pub only_one: u64,
    /// Pictures that the other alone got right.
    pub only_other: u64,
    /// The probability of so uneven a split by chance.
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
    charts: Vec<Drawn>,
}

impl Comparison {
    /// Compares runs that have ended.
    ///
    /// # Errors
    /// When there are not 2 to 10 runs, one has not been judged picture by picture, or they were judged by different pictures.
    pub fn new(runs: &[Run]) -> Result<Self> {
        if !(2..=Chart::MOST_CURVES).contains(&runs.len()) {
            return Err(ReportError::RunCount {
                most: Chart::MOST_CURVES,
                found: runs.len(),
            });
        }
        let names = names_of(runs);
        let judged = runs.iter().map(judged).collect::<Result<Vec<_>>>()?;
        let results = || {
            names
                .iter()
                .zip(&judged)
                .map(|(name, judged)| (name, judged.0))
        };
        for other in results().skip(1) {
            require_same_pictures((&names[0], judged[0].0), other)?;
        }
        let mut pairs = Vec::new();
        for (at, (one, (results, predictions))) in names.iter().zip(&judged).enumerate() {
            for (other, (others, other_predictions)) in names.iter().zip(&judged).skip(at + 1) {
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

    /// The comparison as the text of an HTML file, with the curves of the runs that it was made of.
    ///
    /// # Errors
    /// When these are other runs.
    pub fn page(&self, runs: &[Run]) -> Result<String> {
        let results = &self.runs[0].results;
        let page = Page {
            dataset: &results.dataset,
            pictures: grouped(results.images as usize),
            runs: &self.runs,
            says_top5: self.says_top5,
            differences: &self.differences,
            pairs: &self.pairs,
            charts: curves::of_runs(runs, &names_of(runs))?,
        };
        Ok(page.render()?)
    }
}

fn names_of(runs: &[Run]) -> Vec<String> {
    let roots: Vec<PathBuf> = runs.iter().map(|run| run.root.clone()).collect();
    names(&roots)
}

/// The verdict on a run, picture by picture.
fn judged(run: &Run) -> Result<(&TestResults, &[Prediction])> {
    let missing = |file: &str, finding: &str| ReportError::Disagree {
        path: run.root.join(file),
        expected: "what a run that has ended has".to_string(),
        finding: finding.to_string(),
    };
    let results = run.results.as_ref();
    let results = results.ok_or_else(|| missing("results.json", "no such file"))?;
    let predictions = run.predictions.as_deref();
    let predictions = predictions.ok_or_else(|| missing("predictions.csv", "no such file"))?;
    if results.sha256.is_empty() {
        return Err(missing("results.json", "no sha256 of the test pictures"));
    }
    Ok((results, predictions))
}

fn require_same_pictures(
    (a, in_a): (&String, &TestResults),
    (b, in_b): (&String, &TestResults),
) -> Result<()> {
    let what = [
        (
            "number of test pictures",
            in_a.images.to_string(),
            in_b.images.to_string(),
        ),
        (
            "test pictures (sha256)",
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

/// The fields in which the recipes are not all the same, in the order of the alphabet.
fn differences(runs: &[Run]) -> Result<Vec<FieldValues>> {
    let tables: Vec<toml::Table> = runs
        .iter()
        .map(|run| Ok(run.recipe.to_toml()?.parse().unwrap_or_default()))
        .collect::<Result<_>>()?;
    let mut fields: Vec<FieldValues> = Vec::new();
    for (at, table) in tables.iter().enumerate().skip(1) {
        for difference in Difference::all(&tables[0], table) {
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
    /// Top-1 accuracy, such as `55.60%`.
    pub fn accuracy(&self) -> String {
        exact_percent(self.results.acc)
    }

    /// Its 95% interval, such as `54.62 to 56.57`.
    pub fn interval(&self) -> String {
        interval(self.results.acc_interval_95, 2)
    }

    /// Top-5 accuracy.
    pub fn top5(&self) -> String {
        exact_percent(self.results.top5_acc)
    }

    /// Loss in nats.
    pub fn loss(&self) -> String {
        format!("{:.4}", self.results.loss)
    }

    /// How long training took, to the unit that matters.
    pub fn time(&self) -> String {
        time(self.seconds)
    }

    /// The number of parameters, its thousands apart.
    pub fn grouped_parameters(&self) -> String {
        grouped(self.parameters)
    }
}

impl PairTest {
    /// The difference in percentage points, such as `+1.25`.
    pub fn points(&self) -> String {
        format!("{:+.2}", 100.0 * self.difference)
    }

    /// The p-value with the digits that matter.
    pub fn p(&self) -> String {
        match self.p_value {
            p if p < 1e-300 => "< 1e-300".to_string(), // where f64 ends
            p if p < 0.0001 => format!("{p:.1e}"),
            p => format!("{p:.4}"),
        }
    }
}
