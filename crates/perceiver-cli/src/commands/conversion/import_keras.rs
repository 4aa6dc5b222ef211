//! `perceiver import-keras`: converts weights of the Keras example to a checkpoint.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use perceiver_data::{Fit, Labels, Normalization, Preprocessing, Source, read_class_names};
use perceiver_files::read_named_text;
use perceiver_model::{Architecture, PerceiverConfig, keras, read_safetensors};
use perceiver_report::grouped;
use perceiver_train::{
    CheckpointConfig, DataCard, Preset, Recipe, SingleProcess, Surveys, TrainingData, write_weights,
};

use crate::ui::data_progress;
use crate::ui::escape;
use crate::ui::terminal;

/// Convert Keras weights to a checkpoint.
///
/// The weights are a safetensors file with one array per variable under its Keras path, as
/// docs/parity.md shows; all names may start with `w/`. Flags supply what the weights do not
/// contain: the architecture, and either the training data set, or the normalization and the class
/// names.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  perceiver import-keras --weights keras.safetensors --dataset cifar100 \\
      --output checkpoints/keras
  perceiver import-keras --weights w.safetensors --architecture model.json \\
      --mean 125,123,114 --variance 4001,3826,4373 --classes names.txt \\
      --output checkpoints/mine")]
pub(crate) struct Arguments {
    /// Keras weights in a safetensors file.
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,

    /// JSON object of hyperparameters, named as in the Keras example [default: those of the
    /// example].
    #[arg(long, value_name = "FILE")]
    architecture: Option<PathBuf>,

    /// Training data set, for normalization, class names and hash.
    #[arg(long, value_name = "DATASET", conflicts_with_all = ["mean", "variance", "classes"])]
    dataset: Option<Source>,

    /// Directory of downloaded data sets.
    #[arg(long, value_name = "DIR", default_value = "data")]
    data_dir: PathBuf,

    /// Labels the model was trained on: fine or coarse.
    #[arg(long, value_name = "KIND", default_value = "fine")]
    labels: Labels,

    /// Mean of each channel, as stored in Keras's Normalization layer.
    #[arg(long, value_delimiter = ',', value_name = "R,G,B", requires_all = ["variance", "classes"])]
    mean: Option<Vec<f32>>,

    /// Variance of each channel, as stored in Keras's Normalization layer.
    #[arg(long, value_delimiter = ',', value_name = "R,G,B", requires = "mean")]
    variance: Option<Vec<f32>>,

    /// Text file with one class name per line, in the order of the logits.
    #[arg(long, value_name = "FILE", requires = "mean")]
    classes: Option<PathBuf>,

    /// Directory of the new checkpoint.
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let model = architecture(arguments.architecture.as_deref())?;
    let arrays = read_safetensors(&arguments.weights)?;
    let prefix = if arrays.contains_key("w/latents") {
        "w/"
    } else {
        ""
    };
    let parameters = keras::import(&model, &arrays, prefix, &Device::Cpu).with_context(|| {
        format!(
            "--weights {} do not match the architecture",
            arguments.weights.display()
        )
    })?;
    let config = match &arguments.dataset {
        Some(dataset) => from_dataset(arguments, dataset, model)?,
        None => from_flags(arguments, model)?,
    };
    write(&arguments.output, &config, &parameters)?;
    let count = grouped(parameters.count());
    let output = escape::os(arguments.output.as_os_str());
    terminal::print(format_args!("{count} parameters written to {output}"))?;
    Ok(ExitCode::SUCCESS)
}

fn architecture(path: Option<&Path>) -> Result<PerceiverConfig> {
    let Some(path) = path else {
        return Ok(PerceiverConfig::default());
    };
    let expected = || {
        format!(
            "--architecture {}: expected a JSON object of hyperparameters",
            path.display()
        )
    };
    let text = read_named_text(path).with_context(expected)?;
    serde_json::from_str(&text).with_context(expected)
}

/// Computes normalization, classes and hash as training on the data set would.
fn from_dataset(
    arguments: &Arguments,
    dataset: &Source,
    model: PerceiverConfig,
) -> Result<CheckpointConfig> {
    let mut recipe = Recipe::from_layers(&[(Preset::Keras.name(), Preset::Keras.toml())])?;
    recipe.data.dataset = dataset.clone();
    recipe.data.data_dir.clone_from(&arguments.data_dir);
    recipe.data.labels = arguments.labels;
    recipe.model = model.into();
    let data = TrainingData::load_shared(
        &recipe,
        &SingleProcess,
        &data_progress::watcher(),
        Surveys::default(),
    )?;
    let card = DataCard {
        dataset: Some(dataset.clone()),
        labels: arguments.labels,
        train_images: data.len(),
        train_sha256: data.sha256.clone(),
        seed: recipe.training.seed,
        split_seed: recipe.data.split_seed,
        init_overlap: None,
        limit_test: None,
        flip_average: false,
    };
    let classes = data.train.classes().to_vec();
    checked(CheckpointConfig::new(
        recipe.model,
        data.preprocessing,
        classes,
        card,
    ))
}

fn from_flags(arguments: &Arguments, model: PerceiverConfig) -> Result<CheckpointConfig> {
    let (Some(mean), Some(variance), Some(path)) =
        (&arguments.mean, &arguments.variance, &arguments.classes)
    else {
        bail!("expected --dataset, or --mean, --variance and --classes, which prediction needs");
    };
    let normalization = Normalization {
        mean: mean.clone(),
        variance: variance.clone(),
    };
    normalization.validate()?;
    let preprocessing = Preprocessing {
        image_size: model.image_size,
        antialias: false,
        fit: Fit::Stretch,
        normalization,
        transformers: None,
    };
    let classes = read_class_names(path).context("--classes")?;
    let card = DataCard {
        labels: arguments.labels,
        split_seed: Some(0),
        ..DataCard::unknown()
    };
    checked(CheckpointConfig::new(model, preprocessing, classes, card))
}

fn checked(config: CheckpointConfig) -> Result<CheckpointConfig> {
    let (names, logits) = (config.classes.len(), config.model.num_classes());
    if names != logits {
        bail!("expected {logits} class names, one for each logit of the model, found {names}");
    }
    Ok(config)
}

fn write(
    output: &Path,
    config: &CheckpointConfig,
    parameters: &perceiver_model::Parameters,
) -> Result<()> {
    let path = output.join("config.json");
    if path.exists() {
        bail!(
            "--output {}: expected a directory without a checkpoint, found config.json",
            output.display()
        );
    }
    std::fs::create_dir_all(output)
        .with_context(|| format!("cannot create {}", output.display()))?;
    let tensors = parameters
        .iter()
        .map(|(name, variable)| (name, variable.as_tensor()));
    write_weights(tensors, &output.join("model.safetensors"))?;
    Ok(config.write(&path)?)
}
