//! The result table of a sweep, for people and as JSON.

use std::path::Path;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use perceiver_report::{SweepVariant, says_top5, sweep_page};
use perceiver_train::{
    CheckpointConfig, EpochMetrics, MetricsFile, RunDirectory, TestResults, write_file,
};
use serde::Serialize;

/// The results of a finished run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RunFigures {
    seed: u64,
    directory: String,
    epochs: usize,
    /// The epoch, counted from 1, whose weights were kept: the one with the lowest validation loss.
    kept_epoch: usize,
    val_loss: f64,
    val_acc: f64,
    test_loss: f64,
    test_acc: f64,
    test_balanced_acc: Option<f64>,
    test_macro_f1: Option<f64>,
    test_top5_acc: f64,
    minutes: f64,
    /// The number of classes.
    #[serde(skip)]
    classes: usize,
    /// The metrics of all epochs.
    #[serde(skip)]
    history: Vec<EpochMetrics>,
}

impl RunFigures {
    /// Reads the results of a run; `None` if it is not finished.
    pub(crate) fn read(root: &Path, seed: u64) -> Result<Option<Self>> {
        let Ok(run) = RunDirectory::open(root) else {
            return Ok(None);
        };
        if !run.results().exists() {
            return Ok(None);
        }
        let test = TestResults::read(run.results())?;
        let epochs = MetricsFile::read(run.metrics())?;
        let classes = CheckpointConfig::read(run.config())?.classes.len();
        let by_loss = epochs
            .iter()
            .min_by(|a, b| a.val_loss.total_cmp(&b.val_loss));
        let directory = root.file_name().unwrap_or_default();
        let kept = by_loss.cloned();
        Ok(kept.map(|kept| Self {
            seed,
            directory: directory.to_string_lossy().into_owned(),
            epochs: epochs.len(),
            kept_epoch: kept.epoch,
            val_loss: kept.val_loss,
            val_acc: kept.val_acc,
            test_loss: test.loss,
            test_acc: test.acc,
            test_balanced_acc: test.balanced_acc,
            test_macro_f1: test.macro_f1,
            test_top5_acc: test.top5_acc,
            minutes: epochs.iter().map(|epoch| epoch.seconds).sum::<f64>() / 60.0,
            classes,
            history: epochs,
        }))
    }
}

/// The mean over runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Mean {
    mean: f64,
    /// The sample standard deviation; `None` for a single run.
    deviation: Option<f64>,
}

impl Mean {
    /// Computes the mean; `None` without values.
    fn of(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        (!values.is_empty()).then_some(Self {
            mean,
            deviation: (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()),
        })
    }

    /// Formats `factor` times the mean and the deviation with `digits` digits after the point.
    fn text(self, factor: f64, unit: &str, digits: usize) -> String {
        let mean = format!("{:.digits$}{unit}", factor * self.mean);
        self.deviation.map_or(mean.clone(), |deviation| {
            format!("{mean} ± {:.digits$}", factor * deviation)
        })
    }
}

/// The results of a variant.
#[derive(Debug, Serialize)]
struct VariantFigures {
    name: String,
    /// Whether its validation accuracy is the highest.
    best: bool,
    planned: usize,
    val_acc: Option<Mean>,
    test_acc: Option<Mean>,
    test_balanced_acc: Option<Mean>,
    test_macro_f1: Option<Mean>,
    test_top5_acc: Option<Mean>,
    test_loss: Option<Mean>,
    minutes: Option<Mean>,
    /// The difference of the validation accuracy from that of the first variant.
    difference: Option<f64>,
    runs: Vec<RunFigures>,
}

impl VariantFigures {
    fn new(name: &str, planned: usize, runs: Vec<RunFigures>) -> Self {
        let mean = |figure: fn(&RunFigures) -> f64| {
            Mean::of(&runs.iter().map(figure).collect::<Vec<f64>>())
        };
        // None if a run of an earlier version lacks the figure.
        let mean_of_all = |figure: fn(&RunFigures) -> Option<f64>| {
            Mean::of(&runs.iter().map(figure).collect::<Option<Vec<f64>>>()?)
        };
        Self {
            name: name.to_string(),
            best: false,
            planned,
            val_acc: mean(|run| run.val_acc),
            test_acc: mean(|run| run.test_acc),
            test_balanced_acc: mean_of_all(|run| run.test_balanced_acc),
            test_macro_f1: mean_of_all(|run| run.test_macro_f1),
            test_top5_acc: mean(|run| run.test_top5_acc),
            test_loss: mean(|run| run.test_loss),
            minutes: mean(|run| run.minutes),
            difference: None,
            runs,
        }
    }

    fn row(&self) -> [String; COLUMNS] {
        let text = |mean: Option<Mean>, factor, unit, digits| {
            mean.map_or_else(String::new, |mean| mean.text(factor, unit, digits))
        };
        let (done, planned) = (self.runs.len(), self.planned);
        let difference = self
            .difference
            .map(|share| format!("{:+.2}", 100.0 * share));
        [
            format!("{}{}", self.name, if self.best { " *" } else { "" }),
            if done == planned {
                done.to_string()
            } else {
                format!("{done} of {planned}")
            },
            text(self.val_acc, 100.0, "%", 2),
            text(self.test_acc, 100.0, "%", 2),
            text(self.test_balanced_acc, 100.0, "%", 2),
            text(self.test_macro_f1, 100.0, "%", 2),
            text(self.test_top5_acc, 100.0, "%", 2),
            text(self.test_loss, 1.0, "", 4),
            text(self.minutes, 1.0, "", 1),
            difference.unwrap_or_default(),
        ]
    }
}

const COLUMNS: usize = 10;

const HEADER: [&str; COLUMNS] = [
    "variant",
    "runs",
    "validation top-1",
    "test top-1",
    "test balanced",
    "test macro F1",
    TOP5,
    "test loss",
    "minutes",
    "difference",
];

/// The header of a column that is uninformative with few classes.
const TOP5: &str = "test top-5";

const CAPTION: &str = "* best validation accuracy\nMeans over runs ± their sample standard deviation; \
the difference is that of validation top-1 to the first variant, in points.";

/// The results of a sweep.
#[derive(Debug, Serialize)]
pub(crate) struct SweepTable {
    variants: Vec<VariantFigures>,
}

impl SweepTable {
    /// Creates the table from the name, the number of planned runs and the finished runs of each
    /// variant.
    pub(crate) fn new<'a>(
        variants: impl IntoIterator<Item = (&'a str, usize, Vec<RunFigures>)>,
    ) -> Self {
        let mut variants: Vec<_> = variants
            .into_iter()
            .map(|(name, planned, runs)| VariantFigures::new(name, planned, runs))
            .collect();
        let means: Vec<Option<f64>> = variants
            .iter()
            .map(|variant| variant.val_acc.map(|mean| mean.mean))
            .collect();
        let highest = means.iter().flatten().copied().reduce(f64::max);
        let best = means
            .iter()
            .position(|mean| mean.is_some() && *mean == highest);
        for (index, variant) in variants.iter_mut().enumerate() {
            variant.best = best == Some(index);
            if let (1.., Some(mean), Some(first)) = (index, means[index], means[0]) {
                variant.difference = Some(mean - first);
            }
        }
        Self { variants }
    }

    /// Formats the table for a terminal.
    pub(crate) fn text(&self) -> String {
        format!("{}\n{CAPTION}", self.table(presets::UTF8_HORIZONTAL_ONLY))
    }

    /// Writes `sweep.md`, `sweep.json` and `sweep.html`.
    ///
    /// # Errors
    /// When a file cannot be written or a chart cannot be drawn.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        let markdown = format!("{}\n\n{CAPTION}\n", self.table(presets::ASCII_MARKDOWN));
        write_file(&directory.join("sweep.md"), markdown.as_bytes())?;
        let json = serde_json::to_string_pretty(self)? + "\n";
        write_file(&directory.join("sweep.json"), json.as_bytes())?;
        let page = self.page(directory)?;
        Ok(write_file(&directory.join("sweep.html"), page.as_bytes())?)
    }

    /// Renders the page.
    fn page(&self, directory: &Path) -> Result<String> {
        let shown = |row: [String; COLUMNS]| self.shown(row).collect::<Vec<String>>();
        let variants = self.variants.iter().map(|variant| SweepVariant {
            name: variant.name.clone(),
            best: variant.best,
            row: shown(variant.row()),
            val_acc: variant.val_acc.map(|mean| (mean.mean, mean.deviation)),
            runs: variant.runs.iter().map(|run| run.history.clone()).collect(),
        });
        let variants: Vec<SweepVariant> = variants.collect();
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        let header = shown(HEADER.map(str::to_string));
        let caption = CAPTION.replace('\n', ". ");
        Ok(sweep_page(&name, &header, &caption, &variants)?)
    }

    /// Returns the cells of a row that are shown.
    fn shown(&self, row: [String; COLUMNS]) -> impl Iterator<Item = String> {
        let has_top5 = self.shows_top5();
        let cells = row.into_iter().zip(HEADER);
        cells.filter_map(move |(cell, column)| (has_top5 || column != TOP5).then_some(cell))
    }

    /// Whether any run has enough classes for a top-5 accuracy to be informative.
    fn shows_top5(&self) -> bool {
        let mut runs = self.variants.iter().flat_map(|variant| &variant.runs);
        runs.any(|run| says_top5(run.classes))
    }

    fn table(&self, preset: &str) -> Table {
        let mut table = Table::new();
        table.load_preset(preset);
        table.set_header(self.shown(HEADER.map(str::to_string)));
        table.add_rows(
            self.variants
                .iter()
                .map(|variant| self.shown(variant.row())),
        );
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(val_acc: f64, test_acc: f64) -> RunFigures {
        RunFigures {
            seed: 0,
            directory: "a-seed0".to_string(),
            epochs: 3,
            kept_epoch: 2,
            val_loss: 1.0,
            val_acc,
            test_loss: 1.5,
            test_acc,
            test_balanced_acc: Some(0.25),
            test_macro_f1: None,
            test_top5_acc: 0.9,
            minutes: 2.0,
            classes: 20,
            history: Vec::new(),
        }
    }

    #[test]
    fn the_spread_is_the_sample_standard_deviation() {
        let mean = Mean::of(&[1.0, 3.0]).unwrap();
        assert_eq!(mean.text(1.0, "", 2), "2.00 ± 1.41");
        assert_eq!(Mean::of(&[0.5]).unwrap().text(100.0, "%", 1), "50.0%");
        assert_eq!(Mean::of(&[]), None);
    }

    #[test]
    fn the_best_variant_is_selected_by_validation() {
        let table = SweepTable::new([
            ("first", 2, vec![run(0.50, 0.9), run(0.52, 0.9)]),
            ("second", 2, vec![run(0.60, 0.1)]),
            ("third", 1, vec![]),
        ]);
        let best: Vec<bool> = table.variants.iter().map(|variant| variant.best).collect();
        assert_eq!(best, [false, true, false]);
        assert_eq!(
            table.variants[0].row(),
            [
                "first",
                "2",
                "51.00% ± 1.41",
                "90.00% ± 0.00",
                "25.00% ± 0.00",
                "",
                "90.00% ± 0.00",
                "1.5000 ± 0.0000",
                "2.0 ± 0.0",
                ""
            ]
        );
        assert_eq!(
            table.variants[1].row(),
            [
                "second *", "1 of 2", "60.00%", "10.00%", "25.00%", "", "90.00%", "1.5000", "2.0",
                "+9.00"
            ]
        );
        assert_eq!(
            table.variants[2].row(),
            ["third", "0 of 1", "", "", "", "", "", "", "", ""]
        );
    }

    #[test]
    fn few_classes_have_no_top_5() {
        let few = RunFigures {
            classes: 5,
            ..run(0.5, 0.4)
        };
        let text = |run: RunFigures| SweepTable::new([("first", 1, vec![run])]).text();
        assert!(text(run(0.5, 0.4)).contains(TOP5));
        let text = text(few);
        assert!(!text.contains(TOP5) && text.contains("40.00%"), "{text}");
    }

    #[test]
    fn the_file_is_a_markdown_table() {
        let directory = tempfile::tempdir().unwrap();
        let table = SweepTable::new([("first", 1, vec![run(0.5, 0.4)])]);
        table.write(directory.path()).unwrap();
        let text = std::fs::read_to_string(directory.path().join("sweep.md")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("| variant ") && lines[1].starts_with("|--"));
        assert!(lines[2].starts_with("| first * "), "{text}");
    }
}
