//! What a run leaves on the disk, and where.
//!
//! ```text
//! RUN/config.json                 what prediction needs beside the weights   } a checkpoint
//! RUN/model.safetensors           the best weights so far                    }
//! RUN/metrics.jsonl               one object an epoch
//! RUN/results.json                the test split's verdict, once, at the end
//! RUN/training/recipe.toml        everything that decides what the run does
//! RUN/training/state.safetensors  everything needed to go on
//! ```
//!
//! `state.safetensors` is the one truth of a run in progress: the best weights and the metrics are in it, and the files
//! outside `training` are made from it.

use std::path::{Path, PathBuf};

use crate::atomic_file;
use crate::error::{Result, TrainError};

/// The directory of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDirectory {
    root: PathBuf,
}

impl RunDirectory {
    /// The directory that a new run will have; [`Trainer::start`](crate::Trainer::start) makes it.
    ///
    /// # Errors
    /// When it holds a run already.
    pub fn unused(root: impl Into<PathBuf>) -> Result<Self> {
        let run = Self { root: root.into() };
        if run.recipe().exists() || run.config().exists() {
            return Err(TrainError::RunExists { path: run.root });
        }
        Ok(run)
    }

    /// Makes the directories.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub(crate) fn make(&self) -> Result<()> {
        let training = self.root.join("training");
        std::fs::create_dir_all(&training).map_err(|source| TrainError::Io {
            action: "create",
            path: training,
            source,
        })
    }

    /// The directory of a run that was begun.
    ///
    /// # Errors
    /// When there is no recipe in it.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let run = Self { root: root.into() };
        if run.recipe().is_file() {
            return Ok(run);
        }
        Err(TrainError::Damaged {
            path: run.root,
            expected: "the directory of a run, as `perceiver train` makes it",
            finding: "no training/recipe.toml in it".to_string(),
        })
    }

    /// Removes unfinished files that a killed program has left.
    ///
    /// # Errors
    /// When the directory cannot be read or a file not removed.
    pub(crate) fn remove_leftovers(&self) -> Result<()> {
        atomic_file::remove_leftovers(&self.root)?;
        atomic_file::remove_leftovers(&self.root.join("training"))
    }

    /// A name under `parent` that no run has yet: `NAME-1`, `NAME-2`, ...
    pub fn unused_under(parent: &Path, name: &str) -> PathBuf {
        let candidates = (1..).map(|number| parent.join(format!("{name}-{number}")));
        let mut unused = candidates.filter(|path| !path.exists());
        unused.next().unwrap_or_else(|| parent.join(name))
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `config.json`
    pub fn config(&self) -> PathBuf {
        self.root.join("config.json")
    }

    /// `model.safetensors`
    pub fn model(&self) -> PathBuf {
        self.root.join("model.safetensors")
    }

    /// `metrics.jsonl`
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// `results.json`
    pub fn results(&self) -> PathBuf {
        self.root.join("results.json")
    }

    /// `training/recipe.toml`
    pub fn recipe(&self) -> PathBuf {
        self.root.join("training/recipe.toml")
    }

    /// `training/state.safetensors`
    pub fn state(&self) -> PathBuf {
        self.root.join("training/state.safetensors")
    }
}
