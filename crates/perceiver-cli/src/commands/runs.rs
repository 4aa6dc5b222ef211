//! `perceiver runs`: lists runs and their results.

pub(crate) mod entry;

use std::cmp::Ordering;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use perceiver_report::grouped;

use crate::args::errors::usage_error;
use crate::commands::runs::entry::{ListedRun, State, runs_below};
use crate::ui::escape;
use crate::ui::estimate;
use crate::ui::terminal;

/// List runs with their best results.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A run without test results is running or unfinished, that is, interrupted or running on another machine. The saved state of unfinished runs is checked, and all files but the weights of finished ones. A damaged run is listed with its error; the exit code is still 0.

Examples:
  perceiver runs
  perceiver runs runs/comparison --sort test
  perceiver runs --json"
)]
pub(crate) struct Arguments {
    /// Directory to search, at any depth.
    #[arg(value_name = "DIR", default_value = "runs")]
    directory: PathBuf,

    /// Sort order: by name, or descending by validation accuracy, test accuracy, epochs or time.
    #[arg(long, value_enum, value_name = "BY", default_value_t = Sort::Name)]
    sort: Sort,

    /// Print a JSON array of objects.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sort {
    Name,
    Validation,
    Test,
    Epochs,
    Time,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let directory = &arguments.directory;
    if !directory.is_dir() {
        return Err(usage_error(anyhow!(
            "{}: expected a directory with runs, as `perceiver train` makes them",
            directory.display()
        )));
    }
    let paths = runs_below(directory);
    let mut runs: Vec<ListedRun> = paths.iter().map(|path| ListedRun::read(path)).collect();
    sort(&mut runs, arguments.sort);
    if arguments.json {
        terminal::print_json(&runs, true)?;
    } else if runs.is_empty() {
        tracing::warn!(
            "no runs in {}; start one with: perceiver train",
            directory.display()
        );
    } else {
        terminal::print(table(&runs))?;
        for line in runs.iter().filter_map(what_to_do) {
            terminal::print(escape::line(&line))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Sorts runs, which are already in order of their names; runs without the figure come last.
fn sort(runs: &mut [ListedRun], by: Sort) {
    let figure = |run: &ListedRun| match by {
        Sort::Name => None,
        Sort::Validation => run.best.map(|best| best.val_acc),
        Sort::Test => run.test.as_ref().map(|test| test.acc),
        Sort::Epochs => Some(run.epochs as f64),
        Sort::Time => Some(run.seconds),
    };
    runs.sort_by(|a, b| match (figure(a), figure(b)) {
        (Some(a), Some(b)) => b.total_cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    });
}

fn table(runs: &[ListedRun]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header([
        "run",
        "data set",
        "parameters",
        "epochs",
        "best validation",
        "test (95% interval)",
        "time",
        "state",
    ]);
    for run in runs {
        table.add_row(row(run));
    }
    for column in [2, 3] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn row(run: &ListedRun) -> [String; 8] {
    let or_nothing = Option::unwrap_or_default;
    let planned = run.planned_epochs.map(|epochs| epochs.to_string());
    let planned = planned.or_else(|| run.budget.clone());
    let validation = run
        .best
        .map(|best| format!("{:.2}% (epoch {})", 100.0 * best.val_acc, best.epoch));
    let test = run.test.as_ref().map(|test| {
        let [acc, low, high] =
            [test.acc, test.acc_interval_95[0], test.acc_interval_95[1]].map(|share| 100.0 * share);
        format!("{acc:.2}% ({low:.2} to {high:.2})")
    });
    let state = match run.state {
        State::Finished => "finished",
        State::Running => "running",
        State::Unfinished { .. } => "unfinished",
        State::Damaged { .. } => "damaged",
    };
    [
        escape::os(run.run.as_os_str()),
        or_nothing(
            run.dataset
                .as_deref()
                .map(|name| escape::line(name).into_owned()),
        ),
        or_nothing(run.parameters.map(grouped)),
        planned.map_or(run.epochs.to_string(), |planned| {
            format!("{} of {planned}", run.epochs)
        }),
        or_nothing(validation),
        or_nothing(test),
        estimate::time(run.seconds),
        state.to_string(),
    ]
}

/// Describes how to resume a run, or why it is damaged.
fn what_to_do(run: &ListedRun) -> Option<String> {
    match &run.state {
        State::Finished | State::Running => None,
        State::Unfinished {
            resume: Some(resume),
        } => Some(format!("resume with: {resume}")),
        State::Unfinished { resume: None } => Some(format!(
            "resume {} in the program that started it, which has its data",
            run.run.display()
        )),
        State::Damaged { finding } => Some(format!("damaged: {finding}")),
    }
}
