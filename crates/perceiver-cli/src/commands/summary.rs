//! `perceiver summary`: layers, shapes, parameters and multiply-adds, as Keras's `summary` shows them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use comfy_table::{CellAlignment, TableComponent, presets};
use perceiver_data::Source;
use perceiver_model::{Architecture, ModelConfig, Summary};
use perceiver_report::{counted, grouped, with_unit};
use perceiver_train::{Preset, Recipe};
use toml::Table;

use crate::args::checkpoint::CheckpointFlags;
use crate::args::init_from;
use crate::args::overrides::RecipeChanges;
use crate::args::recipe::Layers;
use crate::commands::train::new_run::Choice;
use crate::ui::escape;
use crate::ui::terminal;

/// Show a model's layers and their cost.
///
/// Without a checkpoint, show the model that `perceiver train` would train with the same preset,
/// file and flags.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  perceiver summary
  perceiver summary --preset cifar100-cpu --set model.num_iterations=4
  perceiver summary runs/shapes-quickstart-1")]
pub(crate) struct Arguments {
    /// Run or checkpoint: a directory, or USER/NAME[@REVISION] on the Hugging Face Hub.
    #[arg(value_name = "CHECKPOINT", conflicts_with_all = OF_A_RECIPE)]
    model: Option<String>,

    /// Alternative to the argument, for consistency with other commands.
    #[arg(long, value_name = "DIR|USER/NAME", conflicts_with_all = OF_A_RECIPE, conflicts_with = "model")]
    checkpoint: Option<String>,

    /// Use no network: take models of the Hub from the local cache.
    #[arg(long)]
    offline: bool,

    /// Preset: keras, keras-2021, cifar100-cpu, cifar100-cpu-long, cifar100-cpu-2026-11,
    /// cifar10-cpu, cifar100, cifar100-best, quickstart, finetune, perceiver-io-conv,
    /// perceiver-io-fourier or perceiver-io-learned [default: as for train].
    #[arg(long, value_name = "NAME")]
    preset: Option<Preset>,

    #[command(flatten)]
    changes: RecipeChanges,

    /// Data set to train on; determines the classes, and the preset if none is given.
    #[arg(long, value_name = "DATASET")]
    dataset: Option<Source>,

    /// Directory of downloaded data sets [default: data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// The flags that define a new model, and do not apply to an existing one.
const OF_A_RECIPE: [&str; 6] = ["preset", "recipe", "config", "set", "dataset", "data_dir"];

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let of_flag = arguments.checkpoint.iter();
    let mut named = of_flag.chain(&arguments.model);
    let (name, config, summary) = if let Some(name) = named.next() {
        let checkpoint = CheckpointFlags::of("--checkpoint", name, arguments.offline);
        let config = checkpoint.config()?.model;
        let summary = Summary::new(&config)?;
        (name.clone(), config, summary)
    } else {
        let (name, recipe) = to_train(arguments)?;
        let summary = Summary::with_frozen(&recipe.model, |name| recipe.freezes(name))?;
        (name, recipe.model, summary)
    };
    let kind = match &config {
        ModelConfig::Perceiver(_) => "Perceiver",
        ModelConfig::PerceiverIo(_) => "Perceiver IO",
        ModelConfig::Custom(_) => config.name(),
    };
    terminal::print(format_args!(
        "{kind}, {}\n{}\n{}",
        escape::line(&name),
        table(&summary),
        totals(&summary)
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the recipe of the model that would be trained, and its name.
fn to_train(arguments: &Arguments) -> Result<(String, Recipe)> {
    let mut data = Table::new();
    if let Some(dataset) = &arguments.dataset {
        data.insert("dataset".to_string(), dataset.to_string().into());
    }
    if let Some(directory) = &arguments.data_dir {
        let directory = directory.to_string_lossy().into_owned();
        data.insert("data_dir".to_string(), directory.into());
    }
    let flags = Table::from_iter([("data".to_string(), data.into())]);
    let layers = Layers::new(&arguments.changes, flags)?;
    let named = layers.named()?;
    let is_whole = named.recipe.is_some();
    let (dataset, preset) = match arguments.preset {
        // The preset's own model, independent of the data.
        Some(preset) if named.dataset.is_none() => (None, preset),
        preset => {
            let device = named.device.open()?;
            let choice = Choice::of(preset, named, &device);
            (Some(choice.dataset), choice.preset)
        }
    };
    let mut recipe = init_from::recipe(&layers, preset)?;
    let under = (!is_whole).then(|| format!("preset {preset}"));
    let names = under.into_iter().chain(layers.names());
    let name = names.collect::<Vec<_>>().join(", ");
    // Training sets the number of outputs of the head to the number of classes.
    let classes = match &dataset {
        Some(dataset) => dataset.class_count(&recipe.load_options())?,
        None => None,
    };
    Ok(match (dataset, classes) {
        (Some(dataset), Some(classes)) => {
            let of = counted(classes, "class");
            recipe.model = recipe.model.with_num_classes(classes);
            (format!("{name}, {of} of {dataset}"), recipe)
        }
        _ => (name, recipe),
    })
}

/// The columns of the table, and whether they hold numbers.
const COLUMNS: [(&str, bool); 7] = [
    ("layer", false),
    ("times", true),
    ("output shape", false),
    ("output", true),
    ("parameters", true),
    ("trainable", true),
    ("multiply-adds", true),
];

fn table(summary: &Summary) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_header(COLUMNS.map(|(name, _)| name));
    // No rules between the rows.
    for rule in [
        TableComponent::HorizontalLines,
        TableComponent::MiddleIntersections,
        TableComponent::LeftBorderIntersections,
        TableComponent::RightBorderIntersections,
    ] {
        table.remove_style(rule);
    }
    for row in &summary.rows {
        let shape: Vec<String> = row.output_shape.iter().map(ToString::to_string).collect();
        table.add_row([
            row.layer.clone(),
            row.repeats.to_string(),
            format!("(batch, {})", shape.join(", ")),
            bytes(row.output_bytes()),
            grouped(row.parameters),
            grouped(row.trainable),
            grouped(row.multiply_adds as usize),
        ]);
    }
    table.add_row([
        "total".to_string(),
        String::new(),
        String::new(),
        bytes(summary.output_bytes()),
        grouped(summary.parameters()),
        grouped(summary.trainable()),
        grouped(summary.multiply_adds() as usize),
    ]);
    for (column, (_, is_number)) in table.column_iter_mut().zip(COLUMNS) {
        if is_number {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Describes the totals: parameters and their size, what is frozen, the outputs.
fn totals(summary: &Summary) -> String {
    let (all, trainable) = (summary.parameters(), summary.trainable());
    format!(
        "{} parameters, {} in f32; {} trainable, {} frozen\n\
         times: how often a layer is applied to an image; output: the size of these outputs in f32",
        grouped(all),
        bytes(4 * all as u64),
        grouped(trainable),
        grouped(all - trainable)
    )
}

/// Formats a size in bytes.
fn bytes(bytes: u64) -> String {
    let text = with_unit(bytes);
    if text.contains(' ') {
        format!("{text}B")
    } else {
        format!("{text} B")
    }
}
