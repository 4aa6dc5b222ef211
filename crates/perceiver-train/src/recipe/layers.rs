//! Layers of a recipe: defaults, preset, files and flags, merged in this order.

use crate::error::{Result, TrainError};
use crate::recipe::seed::Seed;
use crate::recipe::{DataRecipe, Recipe, aliases, field_names};

impl Recipe {
    /// Merges named tables into a recipe; later layers override earlier ones. A layer may use the
    /// aliases of fields.
    ///
    /// # Errors
    /// [`TrainError::Recipe`] with the name of the first layer that has an unknown field, both
    /// names of a field or an invalid value.
    pub fn from_layers(layers: &[(&str, toml::Table)]) -> Result<Self> {
        let mut merged = new_since_earlier_versions();
        let mut recipe = Self::default();
        let mut verdict = Ok(());
        for (name, layer) in layers {
            tracing::debug!("recipe {name}: {}", field_names::given(layer));
            let mut layer = layer.clone();
            aliases::rename(&mut layer).map_err(|finding| recipe_error(name, finding))?;
            overlay(&mut merged, &layer);
            recipe = Self::from_table(name, &layer, &merged)?;
            // A later layer may fix what an earlier one made invalid; if none does, the earlier one
            // is to blame.
            let so_far = recipe.validate(name);
            if verdict.is_ok() || so_far.is_ok() {
                verdict = so_far;
            }
        }
        verdict.map(|()| recipe)
    }

    /// Parses the merged layers, the last of which is `layer`.
    fn from_table(name: &str, layer: &toml::Table, merged: &toml::Table) -> Result<Self> {
        let recipe = toml::Value::Table(merged.clone()).try_into();
        recipe.map_err(|error: toml::de::Error| recipe_error(name, finding(&error, layer)))
    }
}

/// Merges `top` into `bottom`, as [`Recipe::from_layers`] does after it has renamed aliases: tables
/// are merged, everything else is replaced.
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

/// Returns the values in a new recipe of fields whose absence has a meaning in recipes of earlier
/// versions.
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

pub(super) fn recipe_error(name: &str, finding: impl std::fmt::Display) -> TrainError {
    TrainError::Recipe {
        name: name.to_string(),
        finding: one_line(&finding),
    }
}

/// Describes TOML that is not a recipe: suggests the intended field if there is one, or else uses
/// serde's message.
pub(super) fn finding(error: &toml::de::Error, layer: &toml::Table) -> String {
    let is_unknown = error.message().starts_with("unknown field");
    let meant = is_unknown.then(|| field_names::unknown(layer)).flatten();
    meant.unwrap_or_else(|| one_line(error))
}

pub(super) fn one_line(error: &impl std::fmt::Display) -> String {
    error.to_string().trim_end().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::preset::Preset;

    fn layer(text: &str) -> toml::Table {
        toml::from_str(text).unwrap()
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
