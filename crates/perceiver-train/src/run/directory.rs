//! The run directory: names of its files.
//!
//! ```text
//! RUN/config.json                          architecture, preprocessing, classes  } a checkpoint
//! RUN/model.safetensors                    the best weights so far               }
//! RUN/metrics.jsonl                        one JSON object per epoch
//! RUN/metrics.csv                          the same as a table, without model statistics
//! RUN/tensorboard/events.out.tfevents...   the same as curves: tensorboard --logdir RUN
//! RUN/tensorboard/histograms/events...     weights and gradients, with `--histograms`
//! RUN/results.json                         the test results, once, at the end
//! RUN/predictions.csv                      the prediction for every test image
//! RUN/report.html                          a report of all of it
//! RUN/training/recipe.toml                 all settings of the run
//! RUN/training/environment.json            the machine that trained it last
//! RUN/training/steps.csv                   loss, learning rate, gradient norm within the epochs
//! RUN/training/progress.json               where the run is now, while it is trained or tested
//! RUN/training/surveys.json                the surveys of shards
//! RUN/training/state.safetensors           the state to resume from
//! RUN/training/state.previous.safetensors  the state of the save before
//! RUN/training/state.aside-1.safetensors   a state replaced by `--from-previous`, from 1 on
//! RUN/training/lock.json                   the process that writes the run, if any
//! ```
//!
//! `state.safetensors` is the single source of truth of a run in progress. It contains the best
//! weights and the metrics, from which the files outside `training` are made; `config.json` is made
//! from the recipe and the data. A complete state exists at every moment: a save first gives the
//! last state its second name, then puts the new one in its place. Both kinds of safetensors files
//! contain their own checksum; a file that fails it is refused.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Result, TrainError};
use crate::run::atomic_file;
use crate::run::lock::{DirectoryLock, make_unused};

/// The directory of a run. Any process may read it; one at a time may write, and holds the
/// [lock](RunDirectory::locked).
#[derive(Clone, Debug)]
pub struct RunDirectory {
    root: PathBuf,
    lock: Option<Arc<DirectoryLock>>,
}

impl RunDirectory {
    fn at(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self { root, lock: None }
    }

    /// Returns the directory of a new run; [`Trainer::start`](crate::Trainer::start) creates it.
    ///
    /// # Errors
    /// When it already holds a run.
    pub fn unused(root: impl Into<PathBuf>) -> Result<Self> {
        let run = Self::at(root);
        if run.recipe().exists() || run.config().exists() {
            return Err(TrainError::RunExists { path: run.root });
        }
        Ok(run)
    }

    /// Creates and locks the directory of a new run. If it is still empty when the lock is
    /// released, it is removed.
    ///
    /// # Errors
    /// When it already holds a run, another process is about to start one there, or the operating
    /// system refuses.
    pub fn create(root: impl Into<PathBuf>) -> Result<Self> {
        Self::unused(root)?.locked_for_a_new_run()
    }

    /// [`RunDirectory::create`] under the first unused name in `parent`: `NAME-1`, `NAME-2`, ...
    /// Concurrent callers get different names.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn create_under(parent: &Path, name: &str) -> Result<Self> {
        let (root, made) = make_unused(parent, name)?;
        let run = Self::at(root);
        let lock = DirectoryLock::take_made(&run.training(), made);
        run.with(lock)
    }

    /// Locks the directory of a new run, unless it is already locked.
    pub(crate) fn locked_for_a_new_run(self) -> Result<Self> {
        if self.lock.is_some() {
            return Ok(self);
        }
        let run = self.locked()?;
        Self::unused(&run.root)?; // another process may have started and ended one meanwhile
        Ok(run)
    }

    /// Locks the directory for this process until all clones of the result are dropped. If a
    /// process on another machine was writing it and has not released it, this takes 20 seconds.
    ///
    /// # Errors
    /// [`TrainError::InUse`] when another process is writing it, or this process holds it
    /// elsewhere; and when the operating system refuses.
    pub fn locked(self) -> Result<Self> {
        if self.lock.is_some() {
            return Ok(self);
        }
        let lock = DirectoryLock::take(&self.training());
        self.with(lock)
    }

    fn with(self, lock: Result<DirectoryLock>) -> Result<Self> {
        let lock = lock.map_err(|error| self.in_use(error))?;
        Ok(Self {
            lock: Some(Arc::new(lock)),
            ..self
        })
    }

    /// Replaces the directory in a lock error by the run.
    fn in_use(&self, error: TrainError) -> TrainError {
        match error {
            TrainError::InUse { holder, .. } => {
                let path = self.root.clone();
                TrainError::InUse { path, holder }
            }
            error => error,
        }
    }

    /// Checks that no process on another machine has assumed this one dead and taken over the run.
    ///
    /// # Errors
    /// [`TrainError::InUse`] when one has.
    pub(crate) fn require_held(&self) -> Result<()> {
        let held = self.lock.as_ref().map(|lock| lock.require_held());
        held.unwrap_or(Ok(())).map_err(|error| self.in_use(error))
    }

    /// Returns whether a process of this machine is writing the run now. The check changes nothing.
    pub fn is_written(&self) -> bool {
        DirectoryLock::is_taken(&self.training())
    }

    /// Returns the process on another machine that was writing the run and has not released it, for
    /// messages.
    pub fn writer_elsewhere(&self) -> Option<String> {
        DirectoryLock::holder_elsewhere(&self.training())
    }

    fn training(&self) -> PathBuf {
        self.root.join("training")
    }

    /// Opens the directory of an existing run.
    ///
    /// # Errors
    /// When it contains no recipe.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let run = Self::at(root);
        if run.recipe().is_file() {
            return Ok(run);
        }
        Err(TrainError::Damaged {
            path: run.root,
            expected: "a run directory, as `perceiver train` creates it".to_string(),
            finding: "no training/recipe.toml".to_string(),
        })
    }

    /// Checks that a run without a state never had one: starting it again would overwrite its
    /// results.
    ///
    /// # Errors
    /// When there are weights or a previous state.
    pub(crate) fn require_nothing_saved(&self) -> Result<()> {
        let later = [self.previous_state(), self.model()];
        match later.into_iter().find(|path| path.exists()) {
            None => Ok(()),
            Some(file) => Err(TrainError::Damaged {
                path: self.state(),
                expected: "the training state of a run".to_string(),
                finding: format!("no such file, although {} exists", file.display()),
            }),
        }
    }

    /// Removes the test results and their report, which further training makes obsolete.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub(crate) fn remove_results(&self) -> Result<()> {
        for path in [self.results(), self.report()] {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != ErrorKind::NotFound => {
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

    /// Removes temporary files that a killed program has left. Only the holder of the lock knows
    /// that nobody is writing them.
    ///
    /// # Errors
    /// When the directory cannot be read, a file cannot be removed, or another process has taken
    /// the directory.
    pub fn remove_leftovers(&self) -> Result<()> {
        if self.lock.is_none() {
            return Ok(());
        }
        self.require_held()?;
        let _ = fs::remove_file(self.progress()); // of a killed program, and only shown
        let inner = ["training", "tensorboard", "tensorboard/histograms"];
        let inner = inner.map(|name| self.root.join(name));
        let mut inner = inner.iter().filter(|directory| directory.exists());
        atomic_file::remove_leftovers(&self.root)?;
        inner.try_for_each(|directory| atomic_file::remove_leftovers(directory))
    }

    /// Keeps the saved state, if there is one, as the previous state.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub(crate) fn keep_state(&self) -> Result<()> {
        if self.state().exists() {
            atomic_file::link(&self.state(), &self.previous_state())?;
        }
        Ok(())
    }

    /// Replaces the state with the previous state. A replaced state is kept under another path,
    /// which is returned.
    ///
    /// # Errors
    /// When the operating system refuses; the state is then one or the other.
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

    /// Returns the path of the directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the path of `config.json`.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.json")
    }

    /// Returns the path of `model.safetensors`.
    pub fn model(&self) -> PathBuf {
        self.root.join("model.safetensors")
    }

    /// Returns the path of `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// Returns the path of `metrics.csv`.
    pub fn metrics_csv(&self) -> PathBuf {
        self.root.join("metrics.csv")
    }

    /// Returns the path of the event file in `tensorboard`. Its name is fixed, without the usual
    /// time and host: a run has one file, however often it is resumed.
    pub fn event_file(&self) -> PathBuf {
        self.root
            .join("tensorboard/events.out.tfevents.0000000000.perceiver")
    }

    /// Returns the path of the event file in `tensorboard/histograms`. It is in a directory of its
    /// own, since TensorBoard follows only the last event file of a directory.
    pub fn histogram_file(&self) -> PathBuf {
        self.root
            .join("tensorboard/histograms/events.out.tfevents.0000000000.perceiver")
    }

    /// Returns the path of `results.json`.
    pub fn results(&self) -> PathBuf {
        self.root.join("results.json")
    }

    /// Returns the path of `predictions.csv`.
    pub fn predictions(&self) -> PathBuf {
        self.root.join("predictions.csv")
    }

    /// Returns the path of `report.html`.
    pub fn report(&self) -> PathBuf {
        self.root.join("report.html")
    }

    /// Returns the path of `training/environment.json`.
    pub fn environment(&self) -> PathBuf {
        self.root.join("training/environment.json")
    }

    /// Returns the path of `training/progress.json`, which exists while the run is trained or tested.
    pub fn progress(&self) -> PathBuf {
        self.root.join("training/progress.json")
    }

    /// Returns the path of `training/steps.csv`.
    pub fn steps(&self) -> PathBuf {
        self.root.join("training/steps.csv")
    }

    /// Returns the path of `training/surveys.json`, for data in shards.
    pub fn surveys(&self) -> PathBuf {
        self.root.join("training/surveys.json")
    }

    /// Returns the path of `training/recipe.toml`.
    pub fn recipe(&self) -> PathBuf {
        self.root.join("training/recipe.toml")
    }

    /// Returns the path of `training/state.safetensors`.
    pub fn state(&self) -> PathBuf {
        self.root.join("training/state.safetensors")
    }

    /// Returns the path of `training/state.previous.safetensors`.
    pub fn previous_state(&self) -> PathBuf {
        self.root.join("training/state.previous.safetensors")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concurrent_runs_get_unique_names() {
        let directory = tempfile::tempdir().unwrap();
        let parent = directory.path().join("runs");
        let create = || RunDirectory::create_under(&parent, "photos").unwrap();
        let mut names = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(create)).collect();
            let runs: Vec<_> = starts.into_iter().map(|run| run.join().unwrap()).collect();
            let names = runs.iter().map(|run| run.root().to_path_buf());
            names.collect::<Vec<_>>()
        });
        names.sort();
        let expected = (1..=8).map(|number| parent.join(format!("photos-{number}")));
        assert_eq!(names, expected.collect::<Vec<_>>());
        // Nothing was created in them.
        assert_eq!(fs::read_dir(&parent).map_or(0, Iterator::count), 0);
    }

    #[test]
    fn a_name_is_assigned_only_once() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("run");
        let run = RunDirectory::create(&root).unwrap();
        assert!(run.is_written());
        let error = RunDirectory::create(&root).unwrap_err();
        assert!(
            matches!(&error, TrainError::InUse { path, .. } if *path == root),
            "{error}"
        );
        let again = run.clone();
        drop(run);
        assert!(again.clone().locked().unwrap().is_written());
        fs::write(again.recipe(), "").unwrap();
        drop(again);
        let error = RunDirectory::create(&root).unwrap_err();
        assert!(matches!(error, TrainError::RunExists { .. }), "{error}");
    }

    /// Files that another process is writing are not leftovers.
    #[test]
    fn only_the_lock_holder_removes_leftovers() {
        let parent = tempfile::tempdir().unwrap();
        let run = RunDirectory::create(parent.path().join("run")).unwrap();
        let half = run.root().join("training/.writing-abc");
        fs::write(&half, "half a file").unwrap();
        let other = RunDirectory::at(run.root());
        other.remove_leftovers().unwrap();
        assert!(half.exists());
        run.remove_leftovers().unwrap();
        assert!(!half.exists());
    }
}
