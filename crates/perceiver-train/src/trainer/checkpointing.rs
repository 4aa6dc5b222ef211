//! Saves a run: training state, best weights, configuration.

use std::collections::HashMap;
use std::time::Instant;

use candle_core::Tensor;

use crate::checkpoint::config::{CheckpointConfig, DataCard};
use crate::checkpoint::write_model;
use crate::data::TrainingData;
use crate::error::Result;
use crate::recipe::Recipe;
use crate::trainer::Trainer;
use crate::trainer::training_state::{self, StateTensors};

impl Trainer {
    /// Saves the training state, keeping the previous one, and then the best weights as a
    /// checkpoint. Rank 0 does this for all.
    pub(super) fn save(&mut self) -> Result<()> {
        if !self.placement.ranks.is_first() {
            return Ok(());
        }
        self.run.require_held()?;
        let start = Instant::now();
        self.progress.time.seconds = self.clock.spent();
        self.progress.done = self.is_done();
        self.progress.watchdog = self.watchdog.memory();
        let tensors = StateTensors {
            parameters: self.parameters.tensors(),
            best: self.best.clone(),
            optimizer: self.optimizer.state()?.tensors,
            ema: self
                .ema
                .as_ref()
                .map(|ema| ema.means().clone())
                .unwrap_or_default(),
        };
        self.run.keep_state()?;
        self.run.remove_results()?; // before the state: no results beside other weights
        training_state::write(&self.run.state(), &self.progress, tensors)?;
        self.write_best()?;
        self.saved = Instant::now();
        self.progress.time.saving = Some(start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Writes `model.safetensors`: the best weights so far, or in the first epoch the current ones.
    fn write_best(&self) -> Result<()> {
        let current;
        let weights = if self.best.is_empty() {
            current = self.weights();
            &current
        } else {
            &self.best
        };
        write_model(&self.recipe.model, weights, &self.run.model())
    }

    /// Returns the weights to validate and save: the EMA if there is one. Later steps change them
    /// in place.
    pub(super) fn weights(&self) -> HashMap<String, Tensor> {
        match &self.ema {
            Some(ema) if !ema.means().is_empty() => {
                let mut weights = ema.means().clone();
                weights.extend(self.parameters.constants().clone());
                weights
            }
            _ => self.parameters.tensors(),
        }
    }

    /// Writes the files that derive from state, recipe and data, and removes temporary files of a
    /// killed program.
    pub(super) fn write_derived(&self) -> Result<()> {
        if !self.placement.ranks.is_first() {
            return Ok(());
        }
        self.run.remove_leftovers()?;
        self.write_data_location()?;
        self.data.surveys.write(&self.run.surveys())?;
        Self::checkpoint_config(&self.recipe, &self.data).write(&self.run.config())?;
        self.write_best()
    }

    /// Updates the location of the data in `recipe.toml`: readers look for the data there.
    fn write_data_location(&self) -> Result<()> {
        let path = self.run.recipe();
        let mut kept = Recipe::read(&path)?;
        let (saved, now) = (&mut kept.data, &self.recipe.data);
        if (&saved.dataset, &saved.data_dir) == (&now.dataset, &now.data_dir) {
            return Ok(());
        }
        saved.dataset.clone_from(&now.dataset);
        saved.data_dir.clone_from(&now.data_dir);
        kept.write(&path)
    }

    pub(super) fn checkpoint_config(recipe: &Recipe, data: &TrainingData) -> CheckpointConfig {
        let card = DataCard {
            dataset: Some(recipe.data.dataset.clone()),
            labels: recipe.data.labels,
            train_images: data.len(),
            train_sha256: data.sha256.clone(),
            seed: recipe.training.seed,
            split_seed: recipe.data.split_seed,
            init_overlap: data.init_overlap,
            limit_test: recipe.data.limit_test,
            flip_average: recipe.data.test_time_flip,
        };
        let classes = data.train.classes().to_vec();
        CheckpointConfig::new(
            recipe.model.clone(),
            data.preprocessing.clone(),
            classes,
            card,
        )
    }

    pub(super) fn is_save_due(&self) -> bool {
        let every = self.recipe.training.checkpoint_every;
        every.is_some_and(|every| every.is_due(self.progress.steps, self.saved.elapsed()))
    }
}
