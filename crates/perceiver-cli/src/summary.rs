//! `perceiver summary`: layers, shapes, parameters and multiply-adds, as Keras's `summary` shows them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use perceiver_model::{PerceiverConfig, Summary};
use perceiver_train::{CheckpointConfig, Preset, Recipe};

use crate::terminal;
use crate::train::grouped;

/// Show a model's layers and what they cost.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  perceiver summary
  perceiver summary --checkpoint runs/shapes-quickstart-1")]
pub(crate) struct Arguments {
    /// Preset: keras, keras-2021, cifar100-cpu, cifar100, cifar100-best or quickstart.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "keras",
        conflicts_with = "checkpoint"
    )]
    preset: Preset,

    /// Directory of a run or checkpoint.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let (name, config) = match &arguments.checkpoint {
        Some(directory) => {
            let config = CheckpointConfig::read(&directory.join("config.json"))?;
            (directory.display().to_string(), config.model)
        }
        None => (
            format!("preset {}", arguments.preset),
            of_preset(arguments.preset)?,
        ),
    };
    let table = table(&Summary::new(&config)?);
    terminal::print(format_args!("Perceiver, {name}\n{table}"))?;
    Ok(ExitCode::SUCCESS)
}

fn of_preset(preset: Preset) -> Result<PerceiverConfig> {
    let recipe = Recipe::from_layers(&[(preset.name(), preset.table())])?;
    Ok(recipe.model)
}

fn table(summary: &Summary) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_header(["layer", "output shape", "parameters", "multiply-adds"]);
    for row in &summary.rows {
        let shape: Vec<String> = row.output_shape.iter().map(ToString::to_string).collect();
        table.add_row([
            row.layer.clone(),
            format!("(batch, {})", shape.join(", ")),
            grouped(row.parameters),
            grouped(row.multiply_adds as usize),
        ]);
    }
    table.add_row([
        "in all".to_string(),
        String::new(),
        grouped(summary.parameters()),
        grouped(summary.multiply_adds() as usize),
    ]);
    for column in [2, 3] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
