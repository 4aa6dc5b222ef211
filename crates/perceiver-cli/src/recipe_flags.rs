//! The flags that change a recipe, and the order in which preset, file and flags are laid over one another.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use perceiver_data::{Labels, Source};
use perceiver_train::{Budget, CheckpointEvery, DeviceChoice, Precision, Preset, Recipe, Seed};
use toml::Table;

use crate::recipe_changes::{Layer, RecipeChanges, recipe_over};
use crate::wrong_arguments::{at_least_one, at_least_two, positive, wrong};

/// Flags over the configuration file over the preset.
#[derive(Debug, Args)]
pub(crate) struct RecipeFlags {
    /// Recipe to start from: keras, keras-2021, cifar100-cpu, cifar100, cifar100-best or quickstart.
    #[arg(long, value_name = "NAME")]
    pub(crate) preset: Option<Preset>,

    #[command(flatten)]
    changes: RecipeChanges,

    /// Data set: cifar100, cifar10, shapes, folder:DIR, shards:DIR or hf:USER/NAME[:IMAGE:LABEL].
    #[arg(long, value_name = "DATASET")]
    pub(crate) dataset: Option<Source>,

    /// Where fetched data sets lie [default: data].
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Learn the classes or their coarse groups: fine or coarse.
    #[arg(long, value_name = "KIND")]
    labels: Option<Labels>,

    /// Passes over the training pictures, at most.
    #[arg(long, short, value_name = "N", value_parser = at_least_one)]
    pub(crate) epochs: Option<usize>,

    /// Wall clock for everything, the test included, in the place of --epochs: 90s, 10m, 1h30m.
    #[arg(long, value_name = "TIME")]
    budget: Option<Budget>,

    /// Pictures a step.
    #[arg(long, short, value_name = "N", value_parser = at_least_one)]
    batch_size: Option<usize>,

    /// Learning rate at its height.
    #[arg(long, visible_alias = "lr", value_name = "RATE", allow_negative_numbers = true, value_parser = positive)]
    learning_rate: Option<f64>,

    /// Numbers to compute in: f32, tf32 (NVIDIA's matrix units) or bf16 (16 bits between operations; for GPUs).
    #[arg(long, value_name = "TYPE")]
    precision: Option<Precision>,

    /// Train with a fraction of the memory and in a quarter more time.
    #[arg(long)]
    recompute: bool,

    /// Save in the middle of an epoch, too: every so many steps, as 500, or minutes, as 10m.
    #[arg(long, value_name = "STEPS|MINUTES")]
    pub(crate) checkpoint_every: Option<CheckpointEvery>,

    /// Measure gradients, attention and latents in every epoch, for metrics.jsonl.
    #[arg(long)]
    diagnose: bool,

    /// Root of all randomness.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Begin with the weights of a run or checkpoint: on its architecture, with a fresh head where the classes are others.
    #[arg(long, value_name = "DIR")]
    init_from: Option<String>,

    /// Where to compute: auto, cpu, cuda, cuda:N or metal.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<DeviceChoice>,

    /// Use the first N training pictures only, validation included.
    #[arg(long, value_name = "N", value_parser = at_least_two)]
    limit_train: Option<usize>,

    /// Use the first N test pictures only.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    limit_test: Option<usize>,
}

/// What decides which preset to take.
pub(crate) struct Named {
    /// The file of a whole recipe, under which there is no preset.
    pub(crate) recipe: Option<PathBuf>,
    pub(crate) dataset: Option<Source>,
    pub(crate) data_dir: PathBuf,
    pub(crate) device: DeviceChoice,
}

/// What errors call the layer of the flags.
const FLAGS: &str = "given by flags";

/// What `--recipe`, `--config`, the flags and `--set` say, in this order, each under the name that errors call it by.
pub(crate) struct Layers {
    layers: Vec<Layer>,
    /// The file of the first, where that is a whole recipe.
    recipe: Option<PathBuf>,
}

impl Layers {
    /// What changes say, with flags between file and single fields.
    pub(crate) fn new(changes: &RecipeChanges, flags: Table) -> Result<Self> {
        let flags = (FLAGS.to_string(), flags);
        Ok(Self {
            layers: changes.layers([flags])?,
            recipe: changes.recipe(),
        })
    }

    /// These layers with more over them.
    pub(crate) fn with(&self, more: impl IntoIterator<Item = Layer>) -> Self {
        Self {
            layers: self.layers.iter().cloned().chain(more).collect(),
            recipe: self.recipe.clone(),
        }
    }

    /// These layers with another under them.
    pub(crate) fn above(&self, layer: Layer) -> Self {
        let layers = std::iter::once(layer).chain(self.layers.iter().cloned());
        Self {
            layers: layers.collect(),
            recipe: self.recipe.clone(),
        }
    }

    /// What errors call the layers, but for that of the flags.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        let names = self.layers.iter().map(|(name, _)| name.clone());
        names.filter(|name| name != FLAGS)
    }

    /// The recipe of a preset with these layers over it.
    pub(crate) fn over(&self, preset: Preset) -> Result<Recipe> {
        recipe_over(preset, &self.layers)
    }

    /// What was named of the things that decide which preset to take: by flag, else by `--config`.
    pub(crate) fn named(&self) -> Result<Named> {
        let text = |table: &str, key: &str| self.text(table, key).unzip();
        let (dataset_name, dataset) = text("data", "dataset");
        let (device_name, device) = text("training", "device");
        let dataset = dataset.map(str::parse).transpose();
        let device = device.map(str::parse).transpose();
        let source = |name: Option<&str>| format!("recipe {}", name.unwrap_or_default());
        Ok(Named {
            recipe: self.recipe.clone(),
            dataset: dataset
                .with_context(|| source(dataset_name))
                .map_err(wrong)?,
            data_dir: text("data", "data_dir").1.unwrap_or("data").into(),
            device: device
                .with_context(|| source(device_name))
                .map_err(wrong)?
                .unwrap_or_default(),
        })
    }

    /// The checkpoint to begin with, if one is named.
    pub(crate) fn init_from(&self) -> Option<&str> {
        self.layers.iter().rev().find_map(|(_, layer)| {
            let initial = layer.get("training")?.get("init_from")?;
            initial.get("checkpoint")?.as_str()
        })
    }

    /// The text that the last layer with this field has for it, and the layer's name.
    fn text(&self, table: &str, key: &str) -> Option<(&str, &str)> {
        self.layers.iter().rev().find_map(|(name, layer)| {
            let text = layer.get(table)?.get(key)?.as_str()?;
            Some((name.as_str(), text))
        })
    }
}

impl RecipeFlags {
    /// Reads `--recipe` and `--config`, and puts the flags over them and `--set` over those.
    pub(crate) fn layers(&self) -> Result<Layers> {
        Layers::new(&self.changes, self.table()?)
    }

    /// The flags that were given, as a layer.
    fn table(&self) -> Result<Table> {
        let mut data = Table::new();
        let mut training = Table::new();
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        put(
            &mut data,
            "dataset",
            self.dataset.as_ref().map(ToString::to_string),
        )?;
        put(&mut data, "data_dir", self.data_dir.as_ref().map(path))?;
        put(
            &mut data,
            "labels",
            self.labels.map(|labels| labels.to_string()),
        )?;
        put(&mut data, "limit_train", self.limit_train)?;
        put(&mut data, "limit_test", self.limit_test)?;
        put(&mut training, "epochs", self.epochs)?;
        put(&mut training, "budget", self.budget)?;
        put(&mut training, "batch_size", self.batch_size)?;
        put(&mut training, "learning_rate", self.learning_rate)?;
        put(&mut training, "precision", self.precision)?;
        put(&mut training, "recompute", self.recompute.then_some(true))?;
        put(&mut training, "checkpoint_every", self.checkpoint_every)?;
        put(&mut training, "diagnose", self.diagnose.then_some(true))?;
        put(&mut training, "seed", self.seed.map(Seed))?;
        // An empty hash, so that no file's stands beside another checkpoint.
        let initial = self.init_from.clone().map(|checkpoint| {
            let fields = [("checkpoint", checkpoint), ("sha256", String::new())];
            Table::from_iter(fields.map(|(name, text)| (name.to_string(), text.into())))
        });
        put(&mut training, "init_from", initial)?;
        put(
            &mut training,
            "device",
            self.device.map(|device| device.to_string()),
        )?;
        Ok(Table::from_iter([
            ("data".to_string(), data.into()),
            ("training".to_string(), training.into()),
        ]))
    }
}

fn put(table: &mut Table, key: &str, value: Option<impl serde::Serialize>) -> Result<()> {
    if let Some(value) = value {
        let value = toml::Value::try_from(value).with_context(|| format!("flag for {key}"))?;
        table.insert(key.to_string(), value);
    }
    Ok(())
}
