//! Recipe overrides: a file by `--config`, single fields by `--set`.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Result, anyhow};
use clap::Args;
use perceiver_files::read_named_text;
use perceiver_train::{Preset, Recipe};
use toml::{Table, Value};

use crate::args::errors::usage_error;

/// A partial recipe, and its name in errors.
pub(crate) type Layer = (String, Table);

/// The flags `--recipe`, `--config` and `--set`; later ones take precedence.
#[derive(Debug, Args)]
pub(crate) struct RecipeChanges {
    /// Use a complete recipe instead of a preset: a run's training/recipe.toml, or the run.
    #[arg(long, value_name = "FILE|RUN", conflicts_with = "preset")]
    recipe: Option<PathBuf>,

    /// Override the preset with a TOML file with [data], [model] and [training] tables.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Set any recipe field by name, such as `model.num_iterations=3`; takes precedence over all
    /// other flags; repeatable.
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<Assignment>,
}

impl RecipeChanges {
    /// Returns the path of the complete recipe, if one is named.
    pub(crate) fn recipe(&self) -> Option<PathBuf> {
        let named = self.recipe.as_ref()?;
        let of_run = named.join("training/recipe.toml");
        Some(if named.is_dir() {
            of_run
        } else {
            named.clone()
        })
    }

    /// Returns the layers in ascending precedence: `--recipe`, `--config`, `between`, then each
    /// `--set`.
    pub(crate) fn layers(&self, between: impl IntoIterator<Item = Layer>) -> Result<Vec<Layer>> {
        let mut layers = Vec::new();
        if let Some(path) = &self.recipe() {
            layers.push((path.display().to_string(), read("--recipe", path)?));
        }
        if let Some(path) = &self.config {
            layers.push((path.display().to_string(), read("--config", path)?));
        }
        layers.extend(between);
        let set = self.set.iter();
        layers.extend(set.map(|set| (format!("--set {}", set.text), set.table.clone())));
        Ok(layers)
    }
}

/// Builds the recipe of a preset with layers over it.
pub(crate) fn recipe_over(preset: Preset, layers: &[Layer]) -> Result<Recipe> {
    let preset_name = format!("preset {preset}");
    let texts: Vec<String> = layers.iter().map(|(_, table)| table.to_string()).collect();
    let mut all = vec![(preset_name.as_str(), preset.toml())];
    let own = layers.iter().zip(&texts);
    all.extend(own.map(|((name, _), text)| (name.as_str(), text.as_str())));
    Recipe::from_layers(&all).map_err(usage_error)
}

/// Reads the TOML file named by a flag.
pub(crate) fn read(flag: &str, path: &Path) -> Result<Table> {
    let shown = path.display();
    tracing::debug!("reading {shown}");
    let text = read_named_text(path)
        .map_err(|error| usage_error(anyhow!("{flag} {shown}: expected a TOML file: {error}")))?;
    toml::from_str(&text).map_err(|error: toml::de::Error| {
        let position = error.span().map(|span| line_and_column(&text, span.start));
        usage_error(anyhow!(
            "{flag} {shown}: invalid TOML: {}{}",
            position.unwrap_or_default(),
            error.message().trim().replace('\n', ", ")
        ))
    })
}

/// Formats a byte offset in a text as line and column.
fn line_and_column(text: &str, byte: usize) -> String {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
    format!("line {line}, column {column}: ")
}

/// `FIELD=VALUE`: a dotted field name and a TOML value.
#[derive(Clone, Debug, PartialEq)]
struct Assignment {
    text: String,
    table: Table,
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (field, value) = text
            .split_once('=')
            .ok_or("expected FIELD=VALUE, found no `=`")?;
        let mut keys = field.split('.').map(str::trim);
        if keys.clone().any(str::is_empty) {
            return Err(format!(
                "expected a field name, such as training.optimizer.name, before `=`, found {field:?}"
            ));
        }
        let first = keys.next().unwrap_or_default().to_string();
        let value = keys.rev().fold(parse(value.trim())?, |value, key| {
            Table::from_iter([(key.to_string(), value)]).into()
        });
        Ok(Self {
            text: text.to_string(),
            table: Table::from_iter([(first, value)]),
        })
    }
}

/// Parses a TOML value. Invalid TOML that does not start with quotes or brackets is a string, so
/// names need no quotes.
fn parse(text: &str) -> Result<Value, String> {
    match text.parse::<Value>() {
        Ok(value) => Ok(value),
        Err(_) if !text.is_empty() && !text.starts_with(['"', '\'', '[', '{']) => Ok(text.into()),
        Err(_) => Err(format!(
            "expected a TOML value after `=`, such as 3, 0.1, true, adamw or [256, 128], found {text:?}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        text.parse::<Assignment>().unwrap().table
    }

    #[test]
    fn values_are_toml() {
        for (text, toml) in [
            ("model.num_iterations=3", "model.num_iterations = 3"),
            (
                "training.learning_rate = 1e-3",
                "training.learning_rate = 1e-3",
            ),
            ("model.ffn_units=[256, 128]", "model.ffn_units = [256, 128]"),
            (
                "training.activation_checkpointing=true",
                "training.activation_checkpointing = true",
            ),
            (
                "data.augmentation.mixing={mixup = 0.4}",
                "data.augmentation.mixing.mixup = 0.4",
            ),
            ("data.dataset=\"a=b\"", "data.dataset = 'a=b'"),
            ("training={seed=1}", "training.seed = 1"),
        ] {
            assert_eq!(table(text), toml::from_str(toml).unwrap(), "{text}");
        }
    }

    #[test]
    fn strings_need_no_quotes() {
        for name in [
            "lamb",
            "one-cycle",
            "folder:my photos",
            "hf:user/name",
            "a=b",
        ] {
            let parsed = table(&format!("data.dataset={name}"));
            assert_eq!(parsed["data"]["dataset"].as_str(), Some(name));
        }
    }

    #[test]
    fn invalid_assignments_are_rejected() {
        for (text, finding) in [
            ("model.num_iterations", "no `=`"),
            ("=3", "a field name"),
            ("model..x=3", "found \"model..x\""),
            ("model.x=", "a TOML value"),
            ("model.x=[1,", "found \"[1,\""),
            ("model.x='a", "a TOML value"),
        ] {
            let error = text.parse::<Assignment>().unwrap_err();
            assert!(error.contains(finding), "{text}: {error}");
        }
    }
}
