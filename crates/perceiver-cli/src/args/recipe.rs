//! Recipe flags, and the precedence of preset, file and flags.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use perceiver_data::{Labels, Source};
use perceiver_train::{Budget, CheckpointEvery, DeviceChoice, Precision, Preset, Recipe, Seed};
use toml::Table;

use crate::args::errors::{at_least_one, at_least_two, positive, usage_error};
use crate::args::overrides::{Layer, RecipeChanges, recipe_over};

/// Recipe flags. They override the configuration file, which overrides the preset.
#[derive(Debug, Args)]
pub(crate) struct RecipeFlags {
    /// Recipe to start from: keras, keras-2021, cifar100-cpu, cifar100-cpu-long,
    /// cifar100-cpu-2026-11, cifar10-cpu, cifar100, cifar100-best, quickstart, finetune,
    /// perceiver-io-conv, perceiver-io-fourier or perceiver-io-learned.
    #[arg(long, value_name = "NAME")]
    pub(crate) preset: Option<Preset>,

    #[command(flatten)]
    changes: RecipeChanges,

    /// Data set: cifar100, cifar10, shapes, folder:DIR, shards:DIR or hf:USER/NAME[:IMAGE:LABEL].
    #[arg(long, value_name = "DATASET")]
    pub(crate) dataset: Option<Source>,

    /// Directory of downloaded data sets [default: data].
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Labels to train on, classes or their coarse groups: fine or coarse.
    #[arg(long, value_name = "KIND")]
    labels: Option<Labels>,

    /// Maximum number of epochs.
    #[arg(long, short, value_name = "N", value_parser = at_least_one)]
    pub(crate) epochs: Option<usize>,

    /// Wall-clock time for the whole run, including the test, instead of --epochs: 90s, 10m, 1h30m.
    #[arg(long, value_name = "TIME")]
    budget: Option<Budget>,

    /// Batch size, in images.
    #[arg(long, short, value_name = "N", value_parser = at_least_one)]
    batch_size: Option<usize>,

    /// Peak learning rate.
    #[arg(long, visible_alias = "lr", value_name = "RATE", allow_negative_numbers = true, value_parser = positive)]
    learning_rate: Option<f64>,

    /// Compute precision: f32, tf32 (NVIDIA tensor cores) or bf16 (16 bits between operations; for
    /// GPUs, and CPUs with AVX512-BF16; on other CPUs it is slower; the log names the kernel).
    #[arg(long, value_name = "TYPE")]
    precision: Option<Precision>,

    /// Enable activation checkpointing: a fraction of the memory, a quarter more time.
    #[arg(long, visible_alias = "activation-checkpointing")]
    recompute: bool,

    /// Save also within an epoch: every N steps, as 500, or minutes, as 10m.
    #[arg(long, value_name = "STEPS|MINUTES")]
    pub(crate) checkpoint_every: Option<CheckpointEvery>,

    /// Record gradients, attention and latents of every epoch in metrics.jsonl.
    #[arg(long)]
    diagnose: bool,

    /// Random seed.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,

    /// Start from the weights and architecture of a run or checkpoint, with a new head if the
    /// classes differ.
    #[arg(long, value_name = "DIR")]
    init_from: Option<String>,

    /// Device to compute on: auto, cpu, cuda, cuda:N or metal.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<DeviceChoice>,

    /// Use only the first N training images, validation included.
    #[arg(long, value_name = "N", value_parser = at_least_two)]
    limit_train: Option<usize>,

    /// Use only the first N test images.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    limit_test: Option<usize>,
}

/// The settings that determine the preset.
pub(crate) struct Named {
    /// The path of a complete recipe, which replaces the preset.
    pub(crate) recipe: Option<PathBuf>,
    pub(crate) dataset: Option<Source>,
    pub(crate) data_dir: PathBuf,
    pub(crate) device: DeviceChoice,
}

/// The name of the flags' layer in errors.
const FLAGS: &str = "given by flags";

/// The layers of `--recipe`, `--config`, the flags and `--set`, in ascending precedence, each with
/// its name in errors.
pub(crate) struct Layers {
    layers: Vec<Layer>,
    /// The path of the first layer, if that is a complete recipe.
    recipe: Option<PathBuf>,
}

impl Layers {
    /// Creates the layers, with the flags between the file and the single fields.
    pub(crate) fn new(changes: &RecipeChanges, flags: Table) -> Result<Self> {
        let flags = (FLAGS.to_string(), flags);
        Ok(Self {
            layers: changes.layers([flags])?,
            recipe: changes.recipe(),
        })
    }

    /// Returns these layers with more on top.
    pub(crate) fn with(&self, more: impl IntoIterator<Item = Layer>) -> Self {
        Self {
            layers: self.layers.iter().cloned().chain(more).collect(),
            recipe: self.recipe.clone(),
        }
    }

    /// Returns these layers with another one below.
    pub(crate) fn above(&self, layer: Layer) -> Self {
        let layers = std::iter::once(layer).chain(self.layers.iter().cloned());
        Self {
            layers: layers.collect(),
            recipe: self.recipe.clone(),
        }
    }

    /// Returns the names of the layers, except the flags.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        let names = self.layers.iter().map(|(name, _)| name.clone());
        names.filter(|name| name != FLAGS)
    }

    /// Builds the recipe of a preset with these layers over it.
    pub(crate) fn over(&self, preset: Preset) -> Result<Recipe> {
        recipe_over(preset, &self.layers)
    }

    /// Returns the settings that determine the preset, from flags or else from `--config`.
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
                .map_err(usage_error)?,
            data_dir: text("data", "data_dir").1.unwrap_or("data").into(),
            device: device
                .with_context(|| source(device_name))
                .map_err(usage_error)?
                .unwrap_or_default(),
        })
    }

    /// Returns the name of the initial checkpoint, if any.
    pub(crate) fn init_from(&self) -> Option<&str> {
        self.layers.iter().rev().find_map(|(_, layer)| {
            let initial = layer.get("training")?.get("init_from")?;
            initial.get("checkpoint")?.as_str()
        })
    }

    /// Returns the name of the topmost layer that has this field, and its text.
    fn text(&self, table: &str, key: &str) -> Option<(&str, &str)> {
        self.layers.iter().rev().find_map(|(name, layer)| {
            let text = layer.get(table)?.get(key)?.as_str()?;
            Some((name.as_str(), text))
        })
    }
}

impl RecipeFlags {
    /// Reads `--recipe` and `--config`, and adds the flags and then `--set` on top.
    pub(crate) fn layers(&self) -> Result<Layers> {
        Layers::new(&self.changes, self.table()?)
    }

    /// Returns the given flags as a layer.
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
        put(
            &mut training,
            "activation_checkpointing",
            self.recompute.then_some(true),
        )?;
        put(&mut training, "checkpoint_every", self.checkpoint_every)?;
        put(&mut training, "diagnose", self.diagnose.then_some(true))?;
        put(&mut training, "seed", self.seed.map(Seed))?;
        // An empty hash, so that one from a file cannot apply to another checkpoint.
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
