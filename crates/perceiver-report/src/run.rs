//! Reads a run directory for a report.

use std::path::PathBuf;

use perceiver_train::{
    CheckpointConfig, Environment, EpochMetrics, MetricsFile, Prediction, Recipe, RunDirectory,
    StepMetrics, StepsCsv, TestResults, read_predictions,
};

use crate::error::{ReportError, Result};

/// The command that repeats a run from its recipe.
pub(crate) const REPEAT: &str = "perceiver train --recipe recipe.toml";

/// The contents of a run directory.
#[derive(Clone, Debug)]
pub struct Run {
    /// The name of the directory.
    pub name: String,
    /// The path of the directory, as given.
    pub root: PathBuf,
    /// Architecture, preprocessing and class names.
    pub config: CheckpointConfig,
    /// The recipe.
    pub recipe: Recipe,
    /// The metrics of each epoch so far.
    pub epochs: Vec<EpochMetrics>,
    /// The curves within the epochs; empty in runs of earlier versions.
    pub steps: Vec<StepMetrics>,
    /// The test results, if the run has them. What results of earlier versions lack comes from the
    /// predictions.
    pub results: Option<TestResults>,
    /// The prediction for every test image; absent in runs of earlier versions.
    pub predictions: Option<Vec<Prediction>>,
    /// The environment of the training; absent in runs of earlier versions.
    pub environment: Option<Environment>,
}

impl Run {
    /// Reads a run, finished or not.
    ///
    /// # Errors
    /// When a file is damaged, or predictions and results do not match.
    pub fn read(directory: &RunDirectory) -> Result<Self> {
        let root = directory.root().to_path_buf();
        let canonical = root.canonicalize().unwrap_or_else(|_| root.clone()); // resolves `.`
        let name = canonical.file_name().map_or_else(
            || root.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        );
        let mut run = Self {
            name,
            config: CheckpointConfig::read(directory.config())?,
            recipe: Recipe::read(directory.recipe())?,
            epochs: Vec::new(),
            steps: Vec::new(),
            results: None,
            predictions: None,
            environment: None,
            root,
        };
        if directory.metrics().exists() {
            run.epochs = MetricsFile::read(directory.metrics())?;
        }
        if directory.steps().exists() {
            run.steps = StepsCsv::read(directory.steps())?;
        }
        if directory.environment().exists() {
            run.environment = Some(Environment::read(&directory.environment())?);
        }
        if directory.results().exists() {
            let mut results = TestResults::read(directory.results())?;
            if directory.predictions().exists() {
                let predictions = read_predictions(directory.predictions())?;
                run.require_fit(directory, &results, &predictions)?;
                results = results.with_class_metrics(&predictions);
                run.predictions = Some(predictions);
            }
            run.results = Some(results);
        }
        Ok(run)
    }

    /// Checks that the predictions match the number of test images and the classes of the model.
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
                format!("{} images, as in results.json", results.images),
                predictions.len().to_string(),
            ));
        }
        let classes = self.config.classes.len();
        let unknown = |prediction: &&Prediction| {
            prediction.label.max(prediction.predicted) as usize >= classes
        };
        match predictions.iter().find(unknown) {
            None => Ok(()),
            Some(prediction) => Err(disagree(
                format!("classes below {classes}, as in config.json"),
                format!(
                    "{} of image {}",
                    prediction.label.max(prediction.predicted),
                    prediction.image
                ),
            )),
        }
    }

    /// Returns the epoch, counted from 1, whose weights were kept: the first with the lowest
    /// validation loss.
    pub fn kept_epoch(&self) -> Option<usize> {
        let by_loss = self.epochs.iter();
        let kept = by_loss.min_by(|a, b| a.val_loss.total_cmp(&b.val_loss));
        kept.map(|epoch| epoch.epoch)
    }

    /// Returns the number of steps in an epoch; 0 if unknown, as in runs of earlier versions.
    pub fn steps_per_epoch(&self) -> usize {
        let last = self.steps.last().filter(|last| last.epoch > 0.0);
        last.map_or(0, |last| (last.step as f64 / last.epoch).round() as usize)
    }

    /// Returns the duration of training and validation over all epochs, in seconds.
    pub fn seconds(&self) -> f64 {
        self.epochs.iter().map(|epoch| epoch.seconds).sum()
    }
}
