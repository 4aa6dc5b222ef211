//! `perceiver compare`: compares runs.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use comfy_table::{CellAlignment, Table, presets};
use perceiver_report::{Comparison, ReportError, Run, RunFigures};
use perceiver_train::write_file;

use crate::args::named_directory;
use crate::ui::escape;
use crate::ui::terminal;

/// Compare runs that were evaluated on the same test images.
///
/// Show results with confidence intervals, recipe differences, and McNemar's test for each pair:
/// the probability of such a difference between two equally good models on these images.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  perceiver compare runs/photos-1 runs/photos-2
  perceiver compare runs/mine runs/other --output comparison.html")]
pub(crate) struct Arguments {
    /// Run directories, 2 to 10.
    #[arg(required = true, num_args = 2..=10, value_name = "RUN")]
    runs: Vec<PathBuf>,

    /// Also write an HTML page with the curves of all runs.
    #[arg(long, short, value_name = "FILE.html")]
    output: Option<PathBuf>,

    /// Print the comparison as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let runs = arguments.runs.iter();
    let runs: Vec<Run> = runs
        .map(|run| Ok(Run::read(&named_directory::run("RUN", run)?)?))
        .collect::<Result<_>>()?;
    let comparison = Comparison::new(&runs).map_err(|error| match error {
        ReportError::Disagree { .. } => {
            anyhow!("{error}; `perceiver report RUN` adds what earlier versions did not save")
        }
        other => other.into(),
    })?;
    if arguments.json {
        terminal::print_json(&comparison, true)?;
    } else {
        print(&comparison)?;
    }
    if let Some(output) = &arguments.output {
        write_file(output, comparison.page(&runs)?.as_bytes())?;
        tracing::info!("written to {}", output.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The content of a column.
type Figure = fn(&RunFigures) -> String;

/// The header of a column that is uninformative with few classes.
const TOP5: &str = "top-5";

fn print(comparison: &Comparison) -> Result<()> {
    let results = &comparison.runs[0].results;
    terminal::print(format_args!(
        "test results on {}, {} images\n",
        escape::line(&results.dataset),
        results.images
    ))?;
    let columns: [(&str, Figure); 10] = [
        ("run", |run| run.name.clone()),
        ("accuracy", RunFigures::accuracy),
        ("95% interval", RunFigures::interval),
        ("balanced", RunFigures::balanced_accuracy),
        ("macro F1", RunFigures::macro_f1),
        (TOP5, RunFigures::top5),
        ("loss", RunFigures::loss),
        ("epochs", |run| run.epochs.to_string()),
        ("time", RunFigures::time),
        ("parameters", RunFigures::grouped_parameters),
    ];
    let shown = |(name, _): &&(&str, _)| comparison.says_top5 || *name != TOP5;
    let (head, figures): (Vec<&str>, Vec<_>) = columns.iter().filter(shown).copied().unzip();
    let rows = comparison.runs.iter();
    let rows = rows.map(|run| figures.iter().map(|figure| figure(run)).collect());
    terminal::print(table(&head, rows))?;
    let head = [
        "McNemar's test: A",
        "B",
        "difference",
        "only A correct",
        "only B correct",
        "p-value",
    ];
    let rows = comparison.pairs.iter().map(|pair| {
        let [only_one, only_other] =
            [pair.only_one, pair.only_other].map(|count| count.to_string());
        [
            pair.one.clone(),
            pair.other.clone(),
            pair.points(),
            only_one,
            only_other,
            pair.p(),
        ]
        .to_vec()
    });
    terminal::print(format_args!("\n{}", table(&head, rows)))?;
    if comparison.differences.is_empty() {
        return Ok(terminal::print("\nthe recipes are the same")?);
    }
    let names = comparison.runs.iter().map(|run| run.name.as_str());
    let head: Vec<&str> = std::iter::once("recipe").chain(names).collect();
    let rows = comparison.differences.iter().map(|difference| {
        let field = std::iter::once(difference.field.clone());
        field.chain(difference.values.iter().cloned()).collect()
    });
    Ok(terminal::print(format_args!("\n{}", left(&head, rows)))?)
}

/// Creates a table with right-aligned numbers in all columns but the first.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Table {
    let mut table = left(head, rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn left(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::ASCII_MARKDOWN)
        .set_header(head.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| escape::line(cell)));
    }
    table
}
