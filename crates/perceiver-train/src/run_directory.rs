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
//! RUN/training/lock.json                   who writes the run, while somebody does
//! ```
//!
//! `state.safetensors` is the one truth of a run in progress: the best weights and the metrics are in it, and the files
//! outside `training` are made from it, `config.json` from the recipe and the data. At every moment there is a complete
//! state: a save first gives the last one its second name, then puts the new one in its place. Both safetensors kinds hold
//! their own checksum, and whatever fails it is refused.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::atomic_file;
use crate::directory_lock::{DirectoryLock, make_unused};
use crate::error::{Result, TrainError};

/// The directory of a run. Whoever has it may read; one process at a time may write, and that has it [locked](RunDirectory::locked).
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

    /// The directory that a new run will have; [`Trainer::start`](crate::Trainer::start) makes it.
    ///
    /// # Errors
    /// When it holds a run already.
    pub fn unused(root: impl Into<PathBuf>) -> Result<Self> {
        let run = Self::at(root);
        if run.recipe().exists() || run.config().exists() {
            return Err(TrainError::RunExists { path: run.root });
        }
        Ok(run)
    }

    /// The directory of a new run, made and locked. If nothing has come to lie in it when the lock goes, it goes too.
    ///
    /// # Errors
    /// When it holds a run already, another process is about to begin one there, or the operating system refuses.
    pub fn create(root: impl Into<PathBuf>) -> Result<Self> {
        Self::unused(root)?.locked_for_a_new_run()
    }

    /// [`RunDirectory::create`] under a name that no run in `parent` has yet: `NAME-1`, `NAME-2`, ... Of several processes that ask at once,
    /// each gets its own.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn create_under(parent: &Path, name: &str) -> Result<Self> {
        let (root, made) = make_unused(parent, name)?;
        let run = Self::at(root);
        let lock = DirectoryLock::take_made(&run.training(), made);
        run.with(lock)
    }

    /// Locks a directory that no run has begun in, unless it is locked.
    pub(crate) fn locked_for_a_new_run(self) -> Result<Self> {
        if self.lock.is_some() {
            return Ok(self);
        }
        let run = self.locked()?;
        Self::unused(&run.root)?; // another process may have begun and ended one meanwhile
        Ok(run)
    }

    /// The same directory, which this process alone may write until all clones of it are gone. Where a process on another machine was writing
    /// it and has not said that it is done, this takes 20 seconds.
    ///
    /// # Errors
    /// [`TrainError::InUse`] when another process is writing it, or this one holds it elsewhere; and when the operating system refuses.
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

    /// Names the run where the lock names the directory in it.
    fn in_use(&self, error: TrainError) -> TrainError {
        match error {
            TrainError::InUse { holder, .. } => {
                let path = self.root.clone();
                TrainError::InUse { path, holder }
            }
            error => error,
        }
    }

    /// Makes sure that no process on another machine has taken this one for gone, and the run for its own.
    ///
    /// # Errors
    /// [`TrainError::InUse`] when one has.
    pub(crate) fn require_held(&self) -> Result<()> {
        let held = self.lock.as_ref().map(|lock| lock.require_held());
        held.unwrap_or(Ok(())).map_err(|error| self.in_use(error))
    }

    /// Whether a process of this machine writes the run right now. Nothing is changed by asking.
    pub fn is_written(&self) -> bool {
        DirectoryLock::is_taken(&self.training())
    }

    /// The process on another machine that was writing the run and has not said that it is done, for messages.
    pub fn writer_elsewhere(&self) -> Option<String> {
        DirectoryLock::holder_elsewhere(&self.training())
    }

    fn training(&self) -> PathBuf {
        self.root.join("training")
    }

    /// The directory of a run that was begun.
    ///
    /// # Errors
    /// When there is no recipe in it.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let run = Self::at(root);
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

    /// Removes unfinished files that a killed program has left. Only who has the directory locked knows that nobody is writing them.
    ///
    /// # Errors
    /// When the directory cannot be read or a file not removed, or another process has taken it.
    pub fn remove_leftovers(&self) -> Result<()> {
        if self.lock.is_none() {
            return Ok(());
        }
        self.require_held()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_begin_at_once_get_names_of_their_own() {
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
        // Nothing was begun in them.
        assert_eq!(fs::read_dir(&parent).map_or(0, Iterator::count), 0);
    }

    #[test]
    fn one_name_is_given_once() {
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

    /// What somebody else is writing is no leftover.
    #[test]
    fn leftovers_are_removed_by_who_has_the_lock() {
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
