//! What a run leaves on the disk, and where.
//!
//! ```text
//! RUN/config.json                          what prediction needs beside the weights   } a checkpoint
//! RUN/model.safetensors                    the best weights so far                    }
//! RUN/metrics.jsonl                        one object an epoch
//! RUN/metrics.csv                          the same as a table, without what was measured inside the model
//! RUN/tensorboard/events.out.tfevents...   the same as curves: tensorboard --logdir RUN
//! RUN/results.json                         the test split's verdict, once, at the end
//! RUN/predictions.csv                      what was said of every test picture then
//! RUN/report.html                          all of it for people
//! RUN/training/recipe.toml                 everything that decides what the run does
//! RUN/training/environment.json            where it was trained last
//! RUN/training/state.safetensors           everything needed to go on
//! RUN/training/state.previous.safetensors  the same, as it was saved the time before
//! RUN/training/state.aside-1.safetensors   a state that `--from-previous` was told to go back behind, from 1 on
//! ```
//!
//! `state.safetensors` is the one truth of a run in progress: the best weights and the metrics are in it, and the files
//! outside `training` are made from it, `config.json` from the recipe and the data. At every moment there is a complete
//! state: a save first gives the last one its second name, then puts the new one in its place. Both safetensors kinds hold
//! their own checksum, and whatever fails it is refused.

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
            expected: "the directory of a run, as `perceiver train` makes it".to_string(),
            finding: "no training/recipe.toml in it".to_string(),
        })
    }

    /// Makes sure that a run without a state never had one: to begin it anew would overwrite what came of it.
    ///
    /// # Errors
    /// When there are weights or a previous state.
    pub(crate) fn require_nothing_saved(&self) -> Result<()> {
        let later = [self.previous_state(), self.model()];
        match later.into_iter().find(|path| path.exists()) {
            None => Ok(()),
            Some(found) => Err(TrainError::Damaged {
                path: self.state(),
                expected: "the state of a run".to_string(),
                finding: format!("no such file, though {} is there", found.display()),
            }),
        }
    }

    /// Removes the verdict on the test split and the report of it, which more training makes obsolete.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub(crate) fn remove_results(&self) -> Result<()> {
        for path in [self.results(), self.report()] {
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(TrainError::Io {
                        action: "remove",
                        path,
                        source,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes unfinished files that a killed program has left.
    ///
    /// # Errors
    /// When the directory cannot be read or a file not removed.
    pub(crate) fn remove_leftovers(&self) -> Result<()> {
        let inner = ["training", "tensorboard"].map(|name| self.root.join(name));
        let mut inner = inner.iter().filter(|directory| directory.exists());
        atomic_file::remove_leftovers(&self.root)?;
        inner.try_for_each(|directory| atomic_file::remove_leftovers(directory))
    }

    /// Keeps the saved state, if there is one, as the previous one.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub(crate) fn keep_state(&self) -> Result<()> {
        if self.state().exists() {
            atomic_file::link(&self.state(), &self.previous_state())?;
        }
        Ok(())
    }

    /// Puts the previous state in the state's place, and that aside, if there is one. Returns where that is now.
    ///
    /// # Errors
    /// When the operating system refuses; the state is one or the other then.
    pub(crate) fn go_back(&self) -> Result<Option<PathBuf>> {
        let mut names = (1..).map(|number| format!("training/state.aside-{number}.safetensors"));
        let unused =
            names.find_map(|name| Some(self.root.join(name)).filter(|path| !path.exists()));
        let aside = unused.filter(|_| self.state().exists());
        if let Some(aside) = &aside {
            atomic_file::link(&self.state(), aside)?;
        }
        atomic_file::link(&self.previous_state(), &self.state())?;
        Ok(aside)
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

    /// `metrics.csv`
    pub fn metrics_csv(&self) -> PathBuf {
        self.root.join("metrics.csv")
    }

    /// The one event file in `tensorboard`. What others write into the name, time and host, is no part of it: there is one file
    /// a run, however often it is resumed.
    pub fn event_file(&self) -> PathBuf {
        self.root
            .join("tensorboard/events.out.tfevents.0000000000.perceiver")
    }

    /// `results.json`
    pub fn results(&self) -> PathBuf {
        self.root.join("results.json")
    }

    /// `predictions.csv`
    pub fn predictions(&self) -> PathBuf {
        self.root.join("predictions.csv")
    }

    /// `report.html`
    pub fn report(&self) -> PathBuf {
        self.root.join("report.html")
    }

    /// `training/environment.json`
    pub fn environment(&self) -> PathBuf {
        self.root.join("training/environment.json")
    }

    /// `training/surveys.json`, where the data are in shards
    pub fn surveys(&self) -> PathBuf {
        self.root.join("training/surveys.json")
    }

    /// `training/recipe.toml`
    pub fn recipe(&self) -> PathBuf {
        self.root.join("training/recipe.toml")
    }

    /// `training/state.safetensors`
    pub fn state(&self) -> PathBuf {
        self.root.join("training/state.safetensors")
    }

    /// `training/state.previous.safetensors`
    pub fn previous_state(&self) -> PathBuf {
        self.root.join("training/state.previous.safetensors")
    }
}
