//! A recipe: all settings of a training run, apart from the machine.
//!
//! The defaults are those of the Keras example. A recipe is written as TOML in three tables,
//! `[data]`, `[model]` and `[training]`, and merged from layers. A later layer overrides only the
//! fields that it sets:
//!
//! ```
//! use perceiver_train::{Preset, Recipe};
//!
//! let recipe = Recipe::from_layers(&[
//!     (Preset::Keras.name(), Preset::Keras.toml()),
//!     ("my flags", "training.epochs = 3"),
//! ])?;
//! assert_eq!((recipe.training.epochs, recipe.training.batch_size), (3, 64));
//!
//! let mut same = Preset::Keras.recipe();
//! same.training.epochs = 3;
//! assert_eq!(same, recipe);
//! # Ok::<(), perceiver_train::TrainError>(())
//! ```

mod aliases;
pub(crate) mod budget;
pub(crate) mod checkpoint_interval;
mod data;
pub(crate) mod diff;
pub(crate) mod field_names;
pub(crate) mod initial_weights;
mod layers;
pub(crate) mod precision;
pub(crate) mod preset;
pub(crate) mod resume_check;
pub(crate) mod seed;
pub(crate) mod suggestion;
mod training;
mod validate;

use std::path::Path;

use perceiver_data::LoadOptions;
use perceiver_files::MAX_TEXT_BYTES;
use perceiver_model::{Architecture, ModelConfig};
use serde::Serialize;

use crate::error::{Result, TrainError};
use crate::run::atomic_file;
pub use data::{DataRecipe, ValidationSplit};
use layers::{finding, model_table, one_line, recipe_error};
pub use training::{ClassWeighting, EarlyStoppingConfig, TrainingRecipe};

/// The complete configuration of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Recipe {
    /// The data, and the preprocessing of images.
    pub data: DataRecipe,
    /// The architecture.
    pub model: ModelConfig,
    /// The training options.
    pub training: TrainingRecipe,
}

impl Recipe {
    /// Parses a recipe from TOML without validating its values. The error is a description in
    /// words.
    pub(crate) fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut table: toml::Table = toml::from_str(text).map_err(|error| one_line(&error))?;
        let is_perceiver = model_table::is_perceiver(&table);
        aliases::rename(&mut table, is_perceiver)?;
        // A missing table means the same as a table without fields.
        let none = || toml::Table::new().into();
        table.entry("data").or_insert_with(none);
        model_table::recipe(table.clone()).map_err(|error| finding(&error, &table, is_perceiver))
    }

    /// Reads the `recipe.toml` of a run.
    ///
    /// # Errors
    /// When it is missing, not valid TOML, or has unknown fields or invalid values.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let expected = "the recipe of a run";
        let text = atomic_file::read_text(path, MAX_TEXT_BYTES, expected)?;
        let recipe = Self::parse(&text);
        let recipe = recipe.map_err(|finding| TrainError::Damaged {
            path: path.to_path_buf(),
            expected: expected.to_string(),
            finding,
        })?;
        recipe.validate_read(&path.display().to_string())?;
        Ok(recipe)
    }

    /// Writes a `recipe.toml`, atomically replacing an old one.
    ///
    /// # Errors
    /// When the file cannot be written, or as for [`Recipe::to_toml`].
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        atomic_file::write(path, self.to_toml()?.as_bytes())
    }

    /// Serializes the recipe as TOML.
    ///
    /// # Errors
    /// [`TrainError::Recipe`] when TOML cannot represent a number.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|error| recipe_error("of this run", error))
    }

    /// Returns the options to load this recipe's data set with. Images of folders are kept at twice
    /// the model's image size, so that zooming in still finds detail.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions {
            data_dir: self.data.data_dir.clone(),
            labels: self.data.labels,
            shorter_side: 2 * self.model.image_size(),
            seed: self.data.split_seed.unwrap_or(self.training.seed),
            broken: self.data.broken_images,
            ..LoadOptions::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use perceiver_data::Normalization;

    use super::*;
    use crate::recipe::initial_weights::InitialWeights;
    use crate::recipe::preset::Preset;

    #[test]
    fn the_keras_preset_is_the_default() {
        let recipe = Recipe::from_layers(&[("keras", Preset::Keras.toml())]).unwrap();
        assert_eq!(recipe, Recipe::default());
    }

    /// The reference in `docs/recipes.md` names existing fields, with their defaults unless they
    /// are off.
    #[test]
    fn the_documented_recipe_is_the_default() {
        let text = include_str!("../../../docs/recipes.md");
        let toml = text
            .split("```toml")
            .nth(1)
            .unwrap()
            .split("```")
            .next()
            .unwrap();
        let documented = Recipe::from_layers(&[("docs/recipes.md", toml)]).unwrap();
        let mut expected = Recipe::default();
        expected.training.budget = Some("10m".parse().unwrap());
        expected.data.normalization = Some(Normalization {
            mean: vec![129.3, 124.1, 112.4],
            variance: vec![4650.0, 4278.0, 4848.0],
        });
        expected.training.init_from = Some(InitialWeights {
            checkpoint: "runs/photos".to_string(),
            sha256: String::new(),
        });
        expected.training.clip_norm = Some(1.0);
        expected.training.ema_decay = Some(0.999);
        expected.training.checkpoint_every = Some("500".parse().unwrap());
        assert_eq!(documented, expected);
    }

    #[test]
    fn every_preset_is_valid_and_survives_toml() {
        for preset in Preset::ALL {
            let recipe = Recipe::from_layers(&[(preset.name(), preset.toml())]).unwrap();
            let text = recipe.to_toml().unwrap();
            let again = Recipe::from_layers(&[("again", &text)]).unwrap();
            assert_eq!(again, recipe, "{}", preset.name());
        }
    }

    #[test]
    fn variants_of_cifar100_cpu_have_its_model_and_optimizer() {
        let preset = Preset::Cifar100Cpu.recipe();
        let long = Preset::Cifar100CpuLong.recipe();
        assert_eq!(long.model, preset.model);
        assert_eq!(long.training.optimizer, preset.training.optimizer);
        let changed = "data.dataset = 'cifar10'\nmodel.classifier_units = [128, 10]";
        let layers = [
            ("cifar100-cpu", Preset::Cifar100Cpu.toml()),
            ("test", changed),
        ];
        let expected = Recipe::from_layers(&layers).unwrap();
        assert_eq!(Preset::Cifar10Cpu.recipe(), expected);
    }

    /// For a run of an earlier version, whose training seed drew the test split.
    #[test]
    fn recipes_without_a_split_seed_keep_their_split() {
        let old = Recipe::parse("[data]\ndataset = 'folder:a'\n[training]\nseed = 7").unwrap();
        assert_eq!(old.load_options().seed, 7);
        assert!(!old.data.uses_validation_split());
        assert_eq!(Recipe::parse(&old.to_toml().unwrap()).unwrap(), old);
        let shards = Recipe::parse("[data]\ndataset = 'shards:a'").unwrap();
        assert!(shards.data.uses_validation_split());
        let new = "data.dataset = 'folder:a'\ntraining.seed = 7";
        let new = Recipe::from_layers(&[("new", new)]).unwrap();
        assert_eq!(new.load_options().seed, 0);
        assert!(new.data.uses_validation_split());
        assert_eq!(Recipe::parse(&new.to_toml().unwrap()).unwrap(), new);
    }
}
