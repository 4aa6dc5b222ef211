//! The flags that change a recipe, and the order in which preset, file and flags are laid over one another.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use perceiver_data::{Labels, Source};
use perceiver_train::{Budget, DeviceChoice, Preset, Recipe, overlay};
use toml::Table;

/// Flags over the configuration file over the preset.
#[derive(Debug, Args)]
pub(crate) struct RecipeFlags {
    /// Recipe to start from: keras, keras-2021, cifar100-cpu or quickstart.
    #[arg(long, value_name = "NAME")]
    pub(crate) preset: Option<Preset>,

    /// TOML file with [data], [model] and [training] tables; what it names replaces the preset's.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Data set: cifar100, cifar10, shapes, folder:DIR or hf:USER/NAME[:IMAGE:LABEL].
    #[arg(long, value_name = "DATASET")]
    dataset: Option<Source>,

    /// Where fetched data sets lie [default: data].
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Learn the classes or their coarse groups: fine or coarse.
    #[arg(long, value_name = "KIND")]
    labels: Option<Labels>,

    /// Passes over the training pictures, at most.
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,

    /// Wall clock for everything, the test included, in the place of --epochs: 90s, 10m, 1h30m.
    #[arg(long, value_name = "TIME")]
    budget: Option<Budget>,

    /// Pictures a step.
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,

    /// Learning rate at its height.
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    learning_rate: Option<f64>,

    /// Train with a fraction of the memory and in a quarter more time.
    #[arg(long)]
    recompute: bool,

    /// Root of all randomness.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Where to compute: auto, cpu, cuda, cuda:N or metal.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<DeviceChoice>,

    /// Use the first N training pictures only, validation included.
    #[arg(long, value_name = "N")]
    limit_train: Option<usize>,

    /// Use the first N test pictures only.
    #[arg(long, value_name = "N")]
    limit_test: Option<usize>,
}

/// What decides which preset to take.
pub(crate) struct Named {
    pub(crate) dataset: Option<Source>,
    pub(crate) data_dir: PathBuf,
    pub(crate) device: DeviceChoice,
}

/// What `--config` and the flags say, the flags last, each under the name that errors call it by.
pub(crate) struct Layers(Vec<(String, Table)>);

impl Layers {
    /// The recipe of a preset with these layers over it.
    pub(crate) fn over(&self, preset: Preset) -> Result<Recipe> {
        let preset_name = format!("preset {preset}");
        let mut layers = vec![(preset_name.as_str(), preset.table())];
        let own = self.0.iter();
        layers.extend(own.map(|(name, table)| (name.as_str(), table.clone())));
        Ok(Recipe::from_layers(&layers)?)
    }

    /// What was named of the things that decide which preset to take: by flag, else by `--config`.
    pub(crate) fn named(&self) -> Result<Named> {
        let mut merged = Table::new();
        for (_, layer) in &self.0 {
            overlay(&mut merged, layer);
        }
        let text = |table: &str, key: &str| merged.get(table)?.get(key)?.as_str();
        // Flags are parsed by now, so what cannot be parsed stands in the file, the first layer.
        let source = || {
            self.0
                .first()
                .map_or_else(String::new, |(name, _)| format!("--config {name}"))
        };
        let dataset = text("data", "dataset").map(str::parse).transpose();
        let device = text("training", "device").map(str::parse).transpose();
        Ok(Named {
            dataset: dataset.with_context(source)?,
            data_dir: text("data", "data_dir").unwrap_or("data").into(),
            device: device.with_context(source)?.unwrap_or_default(),
        })
    }
}

impl RecipeFlags {
    /// Reads `--config` and puts the flags over it.
    pub(crate) fn layers(&self) -> Result<Layers> {
        let mut layers = Vec::new();
        if let Some(path) = &self.config {
            layers.push((path.display().to_string(), read(path)?));
        }
        layers.push(("given by flags".to_string(), self.table()?));
        Ok(Layers(layers))
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
        put(&mut training, "recompute", self.recompute.then_some(true))?;
        put(&mut training, "seed", self.seed)?;
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

fn read(path: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--config {}: expected a TOML file", path.display()))?;
    toml::from_str(&text).with_context(|| format!("--config {} is no valid TOML", path.display()))
}
