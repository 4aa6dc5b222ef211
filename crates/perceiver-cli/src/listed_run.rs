//! What the files of a run say about it, whatever is missing or damaged.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use perceiver_data::Source;
use perceiver_model::Summary;
use perceiver_train::{
    CheckpointConfig, MetricsFile, Recipe, RunDirectory, Standing, TestResults, shell_quoted,
};
use serde::{Serialize, Serializer};

use crate::prediction_format::percent_encoded;
use crate::way_out;

/// A run, as far as its files can be read.
#[derive(Debug, Serialize)]
pub(crate) struct ListedRun {
    #[serde(serialize_with = "as_text")]
    pub(crate) run: PathBuf,
    /// Only where something of the path is replaced, as it is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run_percent_encoded: Option<String>,
    pub(crate) dataset: Option<String>,
    pub(crate) parameters: Option<usize>,
    pub(crate) epochs: usize,
    /// The most epochs it may have; none where it goes by the clock.
    pub(crate) planned_epochs: Option<usize>,
    pub(crate) budget: Option<String>,
    pub(crate) best: Option<BestEpoch>,
    pub(crate) test: Option<TestResults>,
    /// What its epochs took.
    pub(crate) seconds: f64,
    #[serde(flatten)]
    pub(crate) state: State,
}

/// A path as JSON can hold it: what is no UTF-8 in it is replaced.
fn as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// The epoch of the highest validation accuracy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct BestEpoch {
    pub(crate) epoch: usize,
    pub(crate) val_acc: f64,
}

/// How a run stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(crate) enum State {
    /// It has been judged by the test split, or has learned all it was to from data that only the program that trained it has.
    Finished,
    /// A process of this machine is at work on it.
    Running,
    /// It can go on, or a process of another machine is at work on it.
    Unfinished {
        /// The command that goes on with it; none where only the program that began it has its data.
        resume: Option<String>,
    },
    /// A file of it is not what it should be.
    Damaged {
        /// What is wrong, and what to do.
        finding: String,
    },
}

/// Whether a directory is that of a run, damaged or not.
pub(crate) fn is_run(directory: &Path) -> bool {
    let training = directory.join("training");
    let of_training = ["recipe.toml", "state.safetensors"].map(|name| training.join(name));
    let both = ["config.json", "metrics.jsonl"].map(|name| directory.join(name));
    of_training.iter().any(|path| path.is_file()) || both.iter().all(|path| path.is_file())
}

/// The runs in a directory and below it, by their paths; itself, if it is one. A directory that cannot be read is named in
/// a warning.
pub(crate) fn runs_below(directory: &Path) -> Vec<PathBuf> {
    if is_run(directory) {
        return vec![directory.to_path_buf()];
    }
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let mut entries = entries.unwrap_or_else(|error| {
        tracing::warn!("cannot look into {}: {error}", directory.display());
        Vec::new()
    });
    entries.sort_by_key(fs::DirEntry::file_name);
    let below = entries.into_iter().flat_map(|entry| {
        let path = entry.path();
        // Links are followed to runs alone, so that none leads round in a circle.
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
    /// Reads what can be read.
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

    /// Reads file after file, in the order of what they say about the run.
    fn fill(&mut self, root: &Path) -> Result<State> {
        // First the metrics, which stand for themselves.
        let metrics = root.join("metrics.jsonl");
        let history = match MetricsFile::read(&metrics) {
            Err(_) if !metrics.exists() => Ok(Vec::new()),
            history => history,
        };
        if let Ok(history) = &history {
            let best = history
                .iter()
                .rev() // the first of equal ones
                .max_by(|a, b| a.val_acc.total_cmp(&b.val_acc));
            self.best = best.map(|epoch| BestEpoch {
                epoch: epoch.epoch,
                val_acc: epoch.val_acc,
            });
            self.epochs = history.len();
            self.seconds = history.iter().fold(0.0, |sum, epoch| sum + epoch.seconds);
        }
        let run = RunDirectory::open(root)?;
        let recipe = Recipe::read(&run.recipe())?;
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
            self.test = Some(TestResults::read(&run.results())?);
            CheckpointConfig::read(&run.config())?;
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

/// How far the state of a run is, which has to be one to go on from; none where there is none yet, nor anything that came of one.
fn standing(run: &RunDirectory, recipe: &Recipe) -> Result<Option<Standing>> {
    let state = run.state();
    if !state.exists() && !run.model().exists() {
        return Ok(None);
    }
    let standing = Standing::read(run, &state, recipe)
        .map_err(|error| way_out::shown(error, run, recipe))
        .context("cannot go on")?;
    Ok(Some(standing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_at_any_depth_and_other_directories_are_none() {
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
