//! A run as it lies on the disk, read for a report.

use std::path::PathBuf;

use perceiver_train::{
    CheckpointConfig, Environment, EpochMetrics, MetricsFile, Prediction, Recipe, RunDirectory,
    TestResults, read_predictions,
};

use crate::error::{ReportError, Result};

/// The command that repeats a run by its recipe.
pub(crate) const REPEAT: &str = "perceiver train --recipe recipe.toml";

/// What the files of a run say.
#[derive(Clone, Debug)]
pub struct Run {
    /// The name of its directory.
    pub name: String,
    /// Its directory, as it was given.
    pub root: PathBuf,
    /// Architecture, preprocessing and class names.
    pub config: CheckpointConfig,
    /// Everything that decided what the run did.
    pub recipe: Recipe,
    /// Every epoch so far.
    pub epochs: Vec<EpochMetrics>,
    /// The test split's verdict, if it has been reached.
    pub results: Option<TestResults>,
    /// What was said of every test picture; runs of earlier versions did not keep it.
    pub predictions: Option<Vec<Prediction>>,
    /// Where it was trained; runs of earlier versions did not keep it.
    pub environment: Option<Environment>,
}

impl Run {
    /// Reads a run, finished or not.
    ///
    /// # Errors
    /// When a file is damaged, or the predictions are not those that the results speak of.
    pub fn read(directory: &RunDirectory) -> Result<Self> {
        let root = directory.root().to_path_buf();
        let canonical = root.canonicalize().unwrap_or_else(|_| root.clone()); // `.` has a name too
        let name = canonical.file_name().map_or_else(
            || root.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        );
        let mut run = Self {
            name,
            config: CheckpointConfig::read(&directory.config())?,
            recipe: Recipe::read(&directory.recipe())?,
            epochs: Vec::new(),
            results: None,
            predictions: None,
            environment: None,
            root,
        };
        if directory.metrics().exists() {
            run.epochs = MetricsFile::read(&directory.metrics())?;
        }
        if directory.environment().exists() {
            run.environment = Some(Environment::read(&directory.environment())?);
        }
        if directory.results().exists() {
            let results = TestResults::read(&directory.results())?;
            if directory.predictions().exists() {
                let predictions = read_predictions(&directory.predictions())?;
                run.require_fit(directory, &results, &predictions)?;
                run.predictions = Some(predictions);
            }
            run.results = Some(results);
        }
        Ok(run)
    }

    /// The predictions are of as many pictures as were judged, and name classes of the model.
    fn require_fit(
        &self,
        directory: &RunDirectory,
        results: &TestResults,
        predictions: &[Prediction],
    ) -> Result<()> {
        let disagree = |expected, finding| ReportError::Disagree {
            path: directory.predictions(),
            expected,
            finding,
        };
        if predictions.len() as u64 != results.images {
            return Err(disagree(
                format!("{} pictures, as results.json has", results.images),
                predictions.len().to_string(),
            ));
        }
        let classes = self.config.classes.len();
        let unknown = |said: &&Prediction| said.label.max(said.predicted) as usize >= classes;
        match predictions.iter().find(unknown) {
            None => Ok(()),
            Some(said) => Err(disagree(
                format!("classes below {classes}, as config.json has"),
                format!(
                    "{} of picture {}",
                    said.label.max(said.predicted),
                    said.image
                ),
            )),
        }
    }

    /// The epoch, from 1, whose weights were kept: the first of the lowest validation loss.
    pub fn kept_epoch(&self) -> Option<usize> {
        let by_loss = self.epochs.iter();
        let kept = by_loss.min_by(|a, b| a.val_loss.total_cmp(&b.val_loss));
        kept.map(|epoch| epoch.epoch)
    }

    /// Training and validation of all epochs, in seconds.
    pub fn seconds(&self) -> f64 {
        self.epochs.iter().map(|epoch| epoch.seconds).sum()
    }
}
