//! An entry in the list of runs, read from whatever files the run has.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use perceiver_data::Source;
use perceiver_model::Summary;
use perceiver_train::{
    CheckpointConfig, MetricsFile, Recipe, RunDirectory, TestResults, TrainingState, shell_quoted,
};
use serde::{Serialize, Serializer};

use crate::args::named_directory::is_run;
use crate::args::output_format::percent_encoded;
use crate::ui::error_hints;

/// A run, as far as its files can be read.
#[derive(Debug, Serialize)]
pub(crate) struct ListedRun {
    #[serde(serialize_with = "as_text")]
    pub(crate) run: PathBuf,
    /// Present only if the path is not valid UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run_percent_encoded: Option<String>,
    pub(crate) dataset: Option<String>,
    pub(crate) parameters: Option<usize>,
    pub(crate) epochs: usize,
    /// The maximum number of epochs; `None` for a run with a time budget.
    pub(crate) planned_epochs: Option<usize>,
    pub(crate) budget: Option<String>,
    pub(crate) best: Option<BestEpoch>,
    pub(crate) test: Option<TestResults>,
    /// The duration of its epochs.
    pub(crate) seconds: f64,
    #[serde(flatten)]
    pub(crate) state: State,
}

/// Serializes a path as text, with invalid UTF-8 replaced.
fn as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// The epoch with the highest validation accuracy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct BestEpoch {
    pub(crate) epoch: usize,
    pub(crate) val_acc: f64,
}

/// The state of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(crate) enum State {
    /// The run has test results, or has finished training on data that only the program that
    /// trained it has.
    Finished,
    /// A process on this machine is training it.
    Running,
    /// The run can be resumed, or is being trained on another machine.
    Unfinished {
        /// The command that resumes it; `None` if only the program that started it has its data.
        resume: Option<String>,
    },
    /// A file of the run is damaged.
    Damaged {
        /// The finding, with a remedy.
        finding: String,
    },
}

/// Lists the runs in a directory at any depth, sorted by path, or the directory itself if it is a
/// run. Warns of directories that cannot be read.
pub(crate) fn runs_below(directory: &Path) -> Vec<PathBuf> {
    if is_run(directory) {
        return vec![directory.to_path_buf()];
    }
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let mut entries = entries.unwrap_or_else(|error| {
        tracing::warn!("cannot read {}: {error}", directory.display());
        Vec::new()
    });
    entries.sort_by_key(fs::DirEntry::file_name);
    let below = entries.into_iter().flat_map(|entry| {
        let path = entry.path();
        // Links are followed only to runs, to avoid cycles.
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_run(&path) {
            vec![path]
        } else if is_directory {
            runs_below(&path)
        } else {
            Vec::new()
        }
    });
    below.collect()
}

impl ListedRun {
    /// Reads as much of a run as possible.
    pub(crate) fn read(root: &Path) -> Self {
        let mut listed = Self {
            run: root.to_path_buf(),
            run_percent_encoded: percent_encoded(root.as_os_str()),
            dataset: None,
            parameters: None,
            epochs: 0,
            planned_epochs: None,
            budget: None,
            best: None,
            test: None,
            seconds: 0.0,
            state: State::Finished,
        };
        listed.state = match listed.fill(root) {
            Ok(state) => state,
            Err(error) => State::Damaged {
                finding: crate::in_one_line(&error),
            },
        };
        listed
    }

    /// Reads the files in order of what they reveal about the run.
    fn fill(&mut self, root: &Path) -> Result<State> {
        // The metrics first, because they do not depend on other files.
        let metrics = root.join("metrics.jsonl");
        let history = match MetricsFile::read(&metrics) {
            Err(_) if !metrics.exists() => Ok(Vec::new()),
            history => history,
        };
        if let Ok(history) = &history {
            let best = history
                .iter()
                .rev() // the first wins ties
                .max_by(|a, b| a.val_acc.total_cmp(&b.val_acc));
            self.best = best.map(|epoch| BestEpoch {
                epoch: epoch.epoch,
                val_acc: epoch.val_acc,
            });
            self.epochs = history.len();
            self.seconds = history.iter().fold(0.0, |sum, epoch| sum + epoch.seconds);
        }
        let run = RunDirectory::open(root)?;
        let recipe = Recipe::read(run.recipe())?;
        self.dataset = Some(recipe.data.dataset.to_string());
        self.parameters = Some(Summary::new(&recipe.model)?.parameters());
        self.budget = recipe.training.budget.map(|budget| budget.to_string());
        if self.budget.is_none() {
            self.planned_epochs = Some(recipe.training.epochs);
        }
        history?;
        if run.is_written() {
            return Ok(State::Running);
        }
        if run.results().exists() {
            self.test = Some(TestResults::read(run.results())?);
            CheckpointConfig::read(run.config())?;
            if !run.model().is_file() {
                bail!("{}: no such file", run.model().display());
            }
            return Ok(State::Finished);
        }
        let standing = standing(&run, &recipe)?;
        if let Source::Memory(_) = recipe.data.dataset {
            return Ok(match standing {
                Some(standing) if standing.is_done => State::Finished,
                _ => State::Unfinished { resume: None },
            });
        }
        let resume = format!("perceiver train --resume {}", shell_quoted(root));
        Ok(State::Unfinished {
            resume: Some(resume),
        })
    }
}

/// Reads the progress of the saved state, which must be resumable; `None` if neither it nor a model
/// exists yet.
fn standing(run: &RunDirectory, recipe: &Recipe) -> Result<Option<TrainingState>> {
    let state = run.state();
    if !state.exists() && !run.model().exists() {
        return Ok(None);
    }
    let standing = TrainingState::read(run, &state, recipe)
        .map_err(|error| error_hints::shown(error, run, recipe))
        .context("cannot resume")?;
    Ok(Some(standing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_at_any_depth() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        file("b/training/recipe.toml");
        file("b/training/inner/training/recipe.toml"); // within a run
        file("sweep/x-seed0/training/recipe.toml");
        file("sweep/x-seed1/training/state.safetensors");
        file("copy/config.json");
        file("copy/metrics.jsonl");
        file("checkpoint/config.json");
        file("photos/training/1.png");
        let found = runs_below(directory.path());
        let expected = ["b", "copy", "sweep/x-seed0", "sweep/x-seed1"];
        assert_eq!(found, expected.map(|name| directory.path().join(name)));
        let one = directory.path().join("b");
        assert_eq!(runs_below(&one), std::slice::from_ref(&one));
    }
}
