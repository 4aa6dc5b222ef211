//! The table `[model]` of a recipe, whose field `type` tells the kind of model.

use perceiver_model::{ModelConfig, PerceiverConfig, PerceiverIoConfig};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Error};
use toml::{Table, Value};

use crate::recipe::{DataRecipe, Recipe, TrainingRecipe};

/// A recipe with a kind of model that is known, so that errors name the field.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, bound = "M: Default + DeserializeOwned")]
struct Layout<M> {
    data: DataRecipe,
    model: M,
    training: TrainingRecipe,
}

/// Deserializes a recipe.
pub(in crate::recipe) fn recipe(mut table: Table) -> Result<Recipe, toml::de::Error> {
    let kind = match table.get_mut("model") {
        Some(Value::Table(model)) => match model.get("type") {
            Some(Value::String(kind)) => kind.clone(),
            Some(other) => {
                let found = format!("model.type: expected a string, found {other}");
                return Err(Error::custom(found));
            }
            None => ModelConfig::TYPES[0].to_string(),
        },
        _ => ModelConfig::TYPES[0].to_string(),
    };
    match kind.as_str() {
        "perceiver" => {
            without_type(&mut table);
            with_model::<PerceiverConfig>(table)
        }
        "perceiver-io" => {
            without_type(&mut table);
            require_known(&table)?;
            with_model::<PerceiverIoConfig>(table)
        }
        _ => with_model::<ModelConfig>(table),
    }
}

fn without_type(table: &mut Table) {
    if let Some(Value::Table(model)) = table.get_mut("model") {
        model.remove("type");
    }
}

fn with_model<M: Default + DeserializeOwned + Into<ModelConfig>>(
    table: Table,
) -> Result<Recipe, toml::de::Error> {
    let Layout::<M> {
        data,
        model,
        training,
    } = Value::Table(table).try_into()?;
    Ok(Recipe {
        data,
        model: model.into(),
        training,
    })
}

/// Checks that a Perceiver IO has no unknown fields, which its `config.json` may have.
fn require_known(table: &Table) -> Result<(), toml::de::Error> {
    let known = perceiver_io_fields();
    let Some(Value::Table(model)) = table.get("model") else {
        return Ok(());
    };
    match model.keys().find(|field| !known.contains(field)) {
        None => Ok(()),
        Some(field) => Err(Error::custom(format!(
            "unknown field `{field}`, expected one of `{}`",
            known.join("`, `")
        ))),
    }
}

/// Returns the names of a Perceiver IO's fields.
pub(in crate::recipe) fn perceiver_io_fields() -> Vec<String> {
    let all = PerceiverIoConfig {
        qk_channels: Some(1),
        v_channels: Some(1),
        num_labels: Some(1),
        ..PerceiverIoConfig::default()
    };
    let table = Table::try_from(&all).unwrap_or_default();
    table.into_iter().map(|(field, _)| field).collect()
}

/// Returns whether the model of a recipe is a Perceiver.
pub(in crate::recipe) fn is_perceiver(recipe: &Table) -> bool {
    is_perceiver_of(&[recipe])
}

/// Returns whether the model is a Perceiver by the first layer that tells its kind.
pub(super) fn is_perceiver_of(layers: &[&Table]) -> bool {
    let kind = layers.iter().find_map(|layer| kind(layer));
    kind.is_none_or(|kind| kind == ModelConfig::TYPES[0])
}

fn kind(recipe: &Table) -> Option<&str> {
    recipe.get("model")?.get("type")?.as_str()
}

/// Removes the model of the layers below from `merged` if `layer` has another kind of model: their
/// fields would not apply to it.
pub(super) fn replace_other(merged: &mut Table, layer: &Table) {
    let Some(kind) = kind(layer) else {
        return;
    };
    if self::kind(merged).unwrap_or(ModelConfig::TYPES[0]) != kind {
        merged.remove("model");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::preset::Preset;

    fn recipe_of(text: &str) -> Recipe {
        let layers = [
            (Preset::Quickstart.name(), Preset::Quickstart.toml()),
            ("mine", text),
        ];
        Recipe::from_layers(&layers).unwrap()
    }

    #[test]
    fn another_kind_of_model_replaces_that_of_the_preset() {
        let recipe = recipe_of(
            "[model]\ntype = 'perceiver-io'\nnum_latents = 6\nnum_cross_attention_heads = 1",
        );
        let model = recipe.model.perceiver_io().unwrap();
        assert_eq!((model.num_latents, model.d_latents), (6, 1280));
        let again = Recipe::parse(&recipe.to_toml().unwrap()).unwrap();
        assert_eq!(again, recipe);
    }

    #[test]
    fn the_aliases_of_a_perceiver_are_fields_of_a_perceiver_io() {
        let recipe = recipe_of("model.num_latents = 6");
        assert_eq!(recipe.model.perceiver().unwrap().latent_dim, 6);
        let layers = [
            (
                "a",
                "model.type = 'perceiver-io'\nmodel.num_cross_attention_heads = 1",
            ),
            ("b", "model.num_latents = 7"),
        ];
        let recipe = Recipe::from_layers(&layers).unwrap();
        assert_eq!(recipe.model.perceiver_io().unwrap().num_latents, 7);
    }

    #[test]
    fn unknown_kinds_and_fields_are_errors_by_name() {
        let refused = |text: &str| {
            let layers = [("mine", text)];
            Recipe::from_layers(&layers).unwrap_err().to_string()
        };
        let error = refused("model.type = 'resnet'");
        assert!(
            error.contains("expected perceiver, perceiver-io, found \"resnet\""),
            "{error}"
        );
        let error = refused("model.type = 'perceiver-io'\nmodel.num_latent = 3");
        assert!(
            error.contains("model.num_latent; did you mean model.num_latents?"),
            "{error}"
        );
        let error = refused("model.type = 'perceiver-io'\nmodel.num_latents = 'many'");
        assert!(error.contains("model.num_latents"), "{error}");
        let error = refused("model.type = 3");
        assert!(
            error.contains("model.type: expected a string, found 3"),
            "{error}"
        );
    }
}
