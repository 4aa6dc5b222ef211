//! A recipe: everything that decides what a training run does, apart from the machine.
//!
//! The defaults are the Keras example's. A recipe is written as TOML in three tables, `[data]`, `[model]` and
//! `[training]`, and put together in layers, of which a later one changes what it names and nothing else:
//!
//! ```
//! use perceiver_train::{Preset, Recipe};
//!
//! let changes = toml::from_str("training.epochs = 3")?;
//! let recipe = Recipe::from_layers(&[
//!     (Preset::Keras.name(), Preset::Keras.table()),
//!     ("my flags", changes),
//! ])?;
//! assert_eq!((recipe.training.epochs, recipe.training.batch_size), (3, 64));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::path::{Path, PathBuf};

use perceiver_data::{
    Augmentation, BrokenPictures, Fit, Labels, LoadOptions, Normalization, Source,
};
use perceiver_files::MAX_TEXT_BYTES;
use perceiver_model::PerceiverConfig;
use serde::{Deserialize, Serialize};

use crate::atomic_file;
use crate::budget::Budget;
use crate::checkpoint_every::CheckpointEvery;
use crate::device::DeviceChoice;
use crate::error::{Result, TrainError};
use crate::initial_weights::InitialWeights;
use crate::optimizer_recipe::OptimizerRecipe;
use crate::plateau::PlateauConfig;
use crate::precision::Precision;
use crate::recipe_bounds;
use crate::recipe_fields;
use crate::schedule::ScheduleRecipe;
use crate::seed::Seed;

/// A whole recipe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// What to learn from, and how pictures become input.
    pub data: DataRecipe,
    /// The architecture.
    pub model: PerceiverConfig,
    /// How to learn.
    pub training: TrainingRecipe,
}

/// What to learn from, and how pictures become input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataRecipe {
    /// The data set.
    pub dataset: Source,
    /// Where fetched data sets lie.
    pub data_dir: PathBuf,
    /// Classes or coarse groups.
    pub labels: Labels,
    /// The seed that draws the test split of a folder without splits, the order of folders and of the Hub's data sets, and the
    /// validation part of shards: the same for all seeds of the training. None in the recipes of runs of earlier versions, where
    /// the seed of the training did.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::seed::optional"
    )]
    pub split_seed: Option<u64>,
    /// Whether the data set's own validation split is validated on, where it has one. None in the recipes of runs of earlier
    /// versions, which did so with shards alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_validation_split: Option<bool>,
    /// Without a validation split, the share at the tail of the training pictures that validation is done on: Keras's
    /// `validation_split`.
    pub validation_fraction: f64,
    /// Only the first so many training pictures, a validation part cut from them included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_train: Option<usize>,
    /// Only the first so many test pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_test: Option<usize>,
    /// What becomes of pictures of folders and of the Hub that cannot be read.
    pub broken_pictures: BrokenPictures,
    /// Encoded training pictures in memory to be drawn from, where the data set is in shards: those of all ranks together.
    pub shuffle_buffer: usize,
    /// Whether shrinking a picture averages over the pixels it drops.
    pub antialias: bool,
    /// What becomes of pictures that are no squares: stretched, cropped or padded.
    pub fit: Fit,
    /// Whether the test split is judged by the mean probabilities of a picture and its mirror image.
    pub flip_average: bool,
    /// Mean and variance of each channel to normalize by, in the place of those of the training pictures; a run that begins with a
    /// checkpoint's weights takes the checkpoint's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalization: Option<Normalization>,
    /// Random changes of training pictures.
    pub augmentation: Augmentation,
}

impl Default for DataRecipe {
    fn default() -> Self {
        Self {
            dataset: Source::Cifar100,
            data_dir: PathBuf::from("data"),
            labels: Labels::Fine,
            split_seed: Some(0),
            use_validation_split: Some(true),
            validation_fraction: 0.1,
            limit_train: None,
            limit_test: None,
            broken_pictures: BrokenPictures::Skip,
            shuffle_buffer: 4096,
            antialias: false,
            fit: Fit::Stretch,
            flip_average: false,
            normalization: None,
            augmentation: Augmentation {
                horizontal_flip: true,
                zoom: 0.2,
                ..Augmentation::default()
            },
        }
    }
}

/// How to learn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingRecipe {
    /// Passes over the training pictures, at most.
    pub epochs: usize,
    /// The wall clock the run may take, from the program's start to the verdict of the test split; it stands in the place of
    /// `epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Pictures a step; the last step of an epoch may have fewer.
    pub batch_size: usize,
    /// The learning rate at its height.
    pub learning_rate: f32,
    /// Parts that a batch is gone through in, one after another, to save memory; their gradients are those of the whole.
    pub accumulate: usize,
    /// Parts that each of those is gone through in side by side, to keep every core busy with a small model.
    pub side_by_side: usize,
    /// Gradients are scaled down to this global norm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// In what numbers a step computes; the test split is judged in `f32`.
    pub precision: Precision,
    /// Whether backward computes the transformer's inner values again instead of keeping them: a fraction of the memory, for a
    /// quarter more time.
    pub recompute: bool,
    /// The share of every label that is spread over all classes alike.
    pub label_smoothing: f64,
    /// Validate, and keep, weights averaged over the steps; this much of the average stays in a step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub averaging: Option<f64>,
    /// Save where the run stands in the middle of an epoch, too: so many steps or minutes apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_every: Option<CheckpointEvery>,
    /// Whether `metrics.jsonl` has norms of gradients, entropies of attention and the spread of latents.
    pub diagnose: bool,
    /// The root of all randomness.
    #[serde(with = "crate::seed")]
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceChoice,
    /// The checkpoint whose weights to begin with; fresh ones by the seed, else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_from: Option<InitialWeights>,
    /// What changes the parameters.
    pub optimizer: OptimizerRecipe,
    /// How the learning rate changes.
    pub schedule: ScheduleRecipe,
    /// When schedule `plateau` lowers the learning rate.
    pub plateau: PlateauConfig,
    /// When to stop.
    pub early_stopping: EarlyStoppingConfig,
}

impl Default for TrainingRecipe {
    fn default() -> Self {
        Self {
            epochs: 50,
            budget: None,
            batch_size: 64,
            learning_rate: 1e-3,
            accumulate: 1,
            side_by_side: 1,
            clip_norm: None,
            precision: Precision::F32,
            recompute: false,
            label_smoothing: 0.0,
            averaging: None,
            checkpoint_every: None,
            diagnose: false,
            seed: 0,
            device: DeviceChoice::Auto,
            init_from: None,
            optimizer: OptimizerRecipe::default(),
            schedule: ScheduleRecipe::default(),
            plateau: PlateauConfig::default(),
            early_stopping: EarlyStoppingConfig::default(),
        }
    }
}

/// When to stop before the last epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EarlyStoppingConfig {
    /// Epochs without a lower validation loss.
    pub patience: usize,
}

impl Default for EarlyStoppingConfig {
    fn default() -> Self {
        Self { patience: 15 }
    }
}

impl Recipe {
    /// Lays named tables over one another, the last on top.
    ///
    /// # Errors
    /// [`TrainError::Recipe`] with the name of the first layer that brings an unknown field or an impossible value.
    pub fn from_layers(layers: &[(&str, toml::Table)]) -> Result<Self> {
        let mut merged = new_since_earlier_versions();
        let mut recipe = Self::default();
        let mut verdict = Ok(());
        for (name, layer) in layers {
            tracing::debug!("recipe {name}: {}", recipe_fields::given(layer));
            overlay(&mut merged, layer);
            recipe = Self::from_table(name, layer, &merged)?;
            // A later layer may put right what an earlier one made impossible; else the earlier one is to blame.
            let so_far = recipe.validate(name);
            if verdict.is_ok() || so_far.is_ok() {
                verdict = so_far;
            }
        }
        verdict.map(|()| recipe)
    }

    /// The recipe of layers of which `layer` is the last.
    fn from_table(name: &str, layer: &toml::Table, merged: &toml::Table) -> Result<Self> {
        let recipe = toml::Value::Table(merged.clone()).try_into();
        recipe.map_err(|error: toml::de::Error| recipe_error(name, finding(&error, layer)))
    }

    /// A recipe from TOML, its values unchecked; an error says in words what is wrong.
    pub(crate) fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut table: toml::Table = toml::from_str(text).map_err(|error| one_line(&error))?;
        // What a table without a field means, no table means too.
        let none = || toml::Table::new().into();
        table.entry("data").or_insert_with(none);
        let recipe = toml::Value::Table(table.clone()).try_into();
        recipe.map_err(|error| finding(&error, &table))
    }

    /// Reads the `recipe.toml` of a run.
    ///
    /// # Errors
    /// When it is not there, no valid TOML, or has fields or values it cannot have.
    pub fn read(path: &Path) -> Result<Self> {
        let expected = "the recipe of a run";
        let text = atomic_file::read_text(path, MAX_TEXT_BYTES, expected)?;
        let recipe = Self::parse(&text);
        let recipe = recipe.map_err(|finding| TrainError::Damaged {
            path: path.to_path_buf(),
            expected: expected.to_string(),
            finding,
        })?;
        recipe.validate(&path.display().to_string())?;
        Ok(recipe)
    }

    /// Writes a `recipe.toml`, replacing an old one at once or not at all.
    ///
    /// # Errors
    /// When the file cannot be written, or as for [`Recipe::to_toml`].
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        atomic_file::write(path, self.to_toml()?.as_bytes())
    }

    /// The recipe as TOML.
    ///
    /// # Errors
    /// [`TrainError::Recipe`] when a number has no place in TOML.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|error| recipe_error("of this run", error))
    }

    /// Checks all values that types alone do not.
    pub(crate) fn validate(&self, name: &str) -> Result<()> {
        let (data, training) = (&self.data, &self.training);
        self.model
            .validate()
            .map_err(|error| recipe_error(name, error))?;
        data.augmentation
            .validate()
            .map_err(|error| recipe_error(name, error))?;
        if let Some(normalization) = &data.normalization {
            let valid = normalization.validate();
            valid.map_err(|error| recipe_error(name, format!("data.{error}")))?;
        }
        let finding = data.finding().or_else(|| training.finding());
        match finding.or_else(|| self.number_out_of_bounds()) {
            Some(finding) => Err(recipe_error(name, finding)),
            None => Ok(()),
        }
    }

    fn number_out_of_bounds(&self) -> Option<String> {
        match toml::Table::try_from(self) {
            Ok(table) => recipe_bounds::finding(&table),
            Err(error) => Some(error.to_string()),
        }
    }

    /// How to read this recipe's data set. Folder pictures are kept at twice the size the model sees, so that
    /// zooming in still finds detail.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions {
            data_dir: self.data.data_dir.clone(),
            labels: self.data.labels,
            shorter_side: 2 * self.model.image_size,
            seed: self.data.split_seed.unwrap_or(self.training.seed),
            broken: self.data.broken_pictures,
            ..LoadOptions::default()
        }
    }
}

impl DataRecipe {
    /// Whether choices are made by the data set's own validation split, where it has one.
    pub fn uses_validation_split(&self) -> bool {
        let in_earlier_versions = matches!(self.dataset, Source::Shards { .. });
        self.use_validation_split.unwrap_or(in_earlier_versions)
    }

    /// What is wrong with the values, field first.
    fn finding(&self) -> Option<String> {
        let fraction_leaves_some =
            (0.0..1.0).contains(&self.validation_fraction) && self.validation_fraction > 0.0;
        first_finding([
            (
                fraction_leaves_some,
                format!(
                    "data.validation_fraction: expected above 0 and below 1, found {}",
                    self.validation_fraction
                ),
            ),
            (
                self.limit_train.is_none_or(|limit| limit >= 2),
                format!(
                    "data.limit_train: expected at least 2, one to train and one to validate on, found {}",
                    self.limit_train.unwrap_or_default()
                ),
            ),
            (
                self.limit_test != Some(0),
                "data.limit_test: expected at least 1, found 0".to_string(),
            ),
        ])
    }
}

impl TrainingRecipe {
    /// What is wrong with the values, field first.
    fn finding(&self) -> Option<String> {
        let positive_rate = self.learning_rate.is_finite() && self.learning_rate > 0.0;
        let positive_norm = self.clip_norm.is_none_or(|norm| norm > 0.0);
        let factor_shrinks = (0.0..1.0).contains(&self.plateau.factor);
        first_finding([
            (
                self.epochs > 0,
                "training.epochs: expected at least 1, found 0".to_string(),
            ),
            (
                self.batch_size > 0,
                "training.batch_size: expected at least 1, found 0".to_string(),
            ),
            (
                self.accumulate > 0,
                "training.accumulate: expected at least 1, found 0".to_string(),
            ),
            (
                self.side_by_side > 0,
                "training.side_by_side: expected at least 1, found 0".to_string(),
            ),
            (
                (0.0..1.0).contains(&self.label_smoothing),
                format!(
                    "training.label_smoothing: expected at least 0 and below 1, found {}",
                    self.label_smoothing
                ),
            ),
            (
                self.averaging
                    .is_none_or(|decay| (0.0..1.0).contains(&decay)),
                format!(
                    "training.averaging: expected at least 0 and below 1, found {:?}",
                    self.averaging
                ),
            ),
            (
                positive_rate,
                format!(
                    "training.learning_rate: expected a number above 0, found {}",
                    self.learning_rate
                ),
            ),
            (
                positive_norm,
                format!(
                    "training.clip_norm: expected a number above 0, found {:?}",
                    self.clip_norm
                ),
            ),
            (
                factor_shrinks,
                format!(
                    "training.plateau.factor: expected at least 0 and below 1, found {}",
                    self.plateau.factor
                ),
            ),
        ])
        .or_else(|| self.optimizer.finding())
        .or_else(|| self.schedule.finding())
    }
}

/// Fields whose absence has a meaning of its own, in recipes of runs that earlier versions began: what they are in a new recipe.
fn new_since_earlier_versions() -> toml::Table {
    let default = DataRecipe::default();
    let split_seed = default.split_seed.map(|seed| Seed(seed).to_toml());
    let fields = [
        ("split_seed", split_seed),
        (
            "use_validation_split",
            default.use_validation_split.map(toml::Value::from),
        ),
    ];
    let fields = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_string(), value?)));
    let data: toml::Table = fields.collect();
    toml::Table::from_iter([("data".to_string(), data.into())])
}

/// The finding of the first check that is not fine.
fn first_finding<const N: usize>(checks: [(bool, String); N]) -> Option<String> {
    let found = checks.into_iter().find(|(fine, _)| !fine);
    found.map(|(_, finding)| finding)
}

fn recipe_error(name: &str, finding: impl std::fmt::Display) -> TrainError {
    TrainError::Recipe {
        name: name.to_string(),
        finding: one_line(&finding),
    }
}

/// What is wrong with TOML that is no recipe: the field that was meant where there is one, else in serde's words.
fn finding(error: &toml::de::Error, layer: &toml::Table) -> String {
    let is_unknown = error.message().starts_with("unknown field");
    let meant = is_unknown.then(|| recipe_fields::unknown(layer)).flatten();
    meant.unwrap_or_else(|| one_line(error))
}

fn one_line(error: &impl std::fmt::Display) -> String {
    error.to_string().trim_end().replace('\n', " ")
}

/// Lays `top` over `bottom`, as [`Recipe::from_layers`] does: tables are merged, everything else replaced.
pub fn overlay(bottom: &mut toml::Table, top: &toml::Table) {
    for (key, value) in top {
        match (bottom.get_mut(key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => overlay(below, above),
            _ => {
                bottom.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preset::Preset;

    fn layer(text: &str) -> toml::Table {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn the_keras_preset_is_the_default() {
        let recipe = Recipe::from_layers(&[("keras", Preset::Keras.table())]).unwrap();
        assert_eq!(recipe, Recipe::default());
    }

    /// The reference in `docs/recipes.md` names fields that exist, with their defaults where one is not off.
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
        let documented = Recipe::from_layers(&[("docs/recipes.md", layer(toml))]).unwrap();
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
        expected.training.averaging = Some(0.999);
        expected.training.checkpoint_every = Some("500".parse().unwrap());
        assert_eq!(documented, expected);
    }

    #[test]
    fn impossible_numbers_of_the_parts_are_refused_by_field() {
        for (text, finding) in [
            (
                "optimizer.weight_decay = 0.1",
                "training.optimizer.weight_decay: expected 0 for adam",
            ),
            (
                "optimizer.beta_2 = 1.0",
                "training.optimizer.beta_2: expected at least 0 and below 1",
            ),
            (
                "schedule.warmup_epochs = -1.0",
                "training.schedule.warmup_epochs: expected",
            ),
            ("schedule.hold = 1.0", "training.schedule.hold: expected"),
            (
                "label_smoothing = 1.0",
                "training.label_smoothing: expected",
            ),
            ("averaging = 1.0", "training.averaging: expected"),
            ("accumulate = 0", "training.accumulate: expected"),
            (
                "budget = '600'",
                "budget: expected a duration above 0 with its units",
            ),
        ] {
            let layers = [("my.toml", layer(&format!("[training]\n{text}")))];
            let error = Recipe::from_layers(&layers).unwrap_err().to_string();
            assert!(error.contains(finding), "{error}");
        }
    }

    #[test]
    fn every_preset_is_valid_and_survives_toml() {
        for preset in Preset::ALL {
            let recipe = Recipe::from_layers(&[(preset.name(), preset.table())]).unwrap();
            let text = recipe.to_toml().unwrap();
            let again = Recipe::from_layers(&[("again", layer(&text))]).unwrap();
            assert_eq!(again, recipe, "{}", preset.name());
        }
    }

    #[test]
    fn later_layers_change_what_they_name_only() {
        let recipe = Recipe::from_layers(&[
            (
                "file",
                layer("[model]\nlatent_dim = 7\n[training]\nseed = 5"),
            ),
            ("flags", layer("training.seed = 6")),
        ])
        .unwrap();
        assert_eq!((recipe.model.latent_dim, recipe.training.seed), (7, 6));
        assert_eq!(recipe.model.projection_dim, 256);
    }

    #[test]
    fn errors_name_the_layer_and_the_field() {
        let refused = |text: &str| {
            let layers = [("keras", Preset::Keras.table()), ("my.toml", layer(text))];
            Recipe::from_layers(&layers).unwrap_err().to_string()
        };
        let unknown = refused("[training]\nlearning_rat = 1");
        assert!(
            unknown
                .starts_with("recipe my.toml: unknown field training.learning_rat; did you mean"),
            "{unknown}"
        );
        let nothing_like_it = refused("[training]\nzebra = 1");
        assert!(
            nothing_like_it.starts_with("recipe my.toml: unknown field `zebra`, expected one of `"),
            "{nothing_like_it}"
        );
        let negative = refused("[training]\nlearning_rate = -1.0");
        assert!(
            negative.contains("training.learning_rate: expected a number above 0, found -1"),
            "{negative}"
        );
        let zero = refused("[training]\nepochs = 0");
        assert!(
            zero.contains("training.epochs: expected at least 1"),
            "{zero}"
        );
        let source = refused("[data]\ndataset = 'mnist'");
        assert!(source.contains("cifar100, cifar10, shapes"), "{source}");
        let kind = refused("[model]\nlatent_dim = 'many'");
        assert!(
            kind.starts_with("recipe my.toml: ") && kind.contains("model.latent_dim"),
            "{kind}"
        );
        let disagreeing = refused("[model]\nimage_size = 30\npatch_size = 4");
        assert!(
            disagreeing.starts_with("recipe my.toml: model configuration: image_size"),
            "{disagreeing}"
        );
    }

    /// Of a run that an earlier version began, whose test split the seed of the training has drawn.
    #[test]
    fn a_recipe_without_a_split_seed_divides_as_it_did() {
        let old = Recipe::parse("[data]\ndataset = 'folder:a'\n[training]\nseed = 7").unwrap();
        assert_eq!(old.load_options().seed, 7);
        assert!(!old.data.uses_validation_split());
        assert_eq!(Recipe::parse(&old.to_toml().unwrap()).unwrap(), old);
        let shards = Recipe::parse("[data]\ndataset = 'shards:a'").unwrap();
        assert!(shards.data.uses_validation_split());
        let new = layer("data.dataset = 'folder:a'\ntraining.seed = 7");
        let new = Recipe::from_layers(&[("new", new)]).unwrap();
        assert_eq!(new.load_options().seed, 0);
        assert!(new.data.uses_validation_split());
        assert_eq!(Recipe::parse(&new.to_toml().unwrap()).unwrap(), new);
    }

    #[test]
    fn limits_that_leave_nothing_are_refused_before_training() {
        for (field, limit, least) in [("limit_train", 1, 2), ("limit_test", 0, 1)] {
            let text = format!("[data]\n{field} = {limit}");
            let error = Recipe::from_layers(&[("my.toml", layer(&text))]).unwrap_err();
            let expected = format!("recipe my.toml: data.{field}: expected at least {least}");
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
    }

    #[test]
    fn the_layer_that_brings_an_impossible_value_is_blamed() {
        let file = layer("training.epochs = 0");
        let layers = |flags| [("my.toml", file.clone()), ("flags", layer(flags))];
        let error = Recipe::from_layers(&layers("training.seed = 1")).unwrap_err();
        assert!(error.to_string().starts_with("recipe my.toml: "), "{error}");
        let recipe = Recipe::from_layers(&layers("training.epochs = 2")).unwrap();
        assert_eq!(recipe.training.epochs, 2);
    }
}
