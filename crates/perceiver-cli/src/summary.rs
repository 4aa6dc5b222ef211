//! `perceiver summary`: layers, shapes, parameters and multiply-adds, as Keras's `summary` shows them.

use std::process::ExitCode;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use perceiver_model::{PerceiverConfig, Summary};
use perceiver_report::grouped;
use perceiver_train::Preset;

use crate::checkpoint::CheckpointFlags;
use crate::escape;
use crate::recipe_changes::{RecipeChanges, recipe_over};
use crate::terminal;

/// Show a model's layers and what they cost.
#[derive(Debug, clap::Args)]
#[command(
    mut_arg("checkpoint", |flag| flag.required(false).conflicts_with_all(["preset", "config", "set"])),
    after_help = "Examples:
  perceiver summary
  perceiver summary --preset cifar100-cpu --set model.num_iterations=4
  perceiver summary --checkpoint runs/shapes-quickstart-1"
)]
pub(crate) struct Arguments {
    /// Preset: keras, keras-2021, cifar100-cpu, cifar100, cifar100-best or quickstart.
    #[arg(long, value_name = "NAME", default_value = "keras")]
    preset: Preset,

    #[command(flatten)]
    changes: RecipeChanges,

    #[command(flatten)]
    checkpoint: Option<CheckpointFlags>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let (name, config) = match &arguments.checkpoint {
        Some(checkpoint) => (checkpoint.shown().to_owned(), checkpoint.config()?.model),
        None => of_recipe(arguments.preset, &arguments.changes)?,
    };
    let table = table(&Summary::new(&config)?);
    terminal::print(format_args!("Perceiver, {}\n{table}", escape::line(&name)))?;
    Ok(ExitCode::SUCCESS)
}

/// The model of a preset as it is changed, and what to call it.
fn of_recipe(preset: Preset, changes: &RecipeChanges) -> Result<(String, PerceiverConfig)> {
    let layers = changes.layers([])?;
    let recipe = recipe_over(preset, &layers)?;
    let preset = [format!("preset {preset}")];
    let names = preset
        .into_iter()
        .chain(layers.into_iter().map(|(name, _)| name));
    Ok((names.collect::<Vec<_>>().join(", "), recipe.model))
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
