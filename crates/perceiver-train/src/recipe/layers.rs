//! Layers of a recipe: defaults, preset, files and flags, merged in this order.

pub(super) mod model_table;

use crate::error::{Result, TrainError};
use crate::recipe::seed::Seed;
use crate::recipe::{DataRecipe, Recipe, aliases, field_names};

impl Recipe {
    /// Merges layers into a recipe; later layers override earlier ones. A layer is its name in error
    /// messages and a part of a recipe as TOML, which may use the aliases of fields.
    ///
    /// # Errors
    /// [`TrainError::Recipe`] with the name of the first layer that is not valid TOML, or has an
    /// unknown field, both names of a field or an invalid value.
    pub fn from_layers<N: AsRef<str>, T: AsRef<str>>(layers: &[(N, T)]) -> Result<Self> {
        let mut merged = new_since_earlier_versions();
        let mut recipe = Self::default();
        let mut result = Ok(());
        for (name, text) in layers {
            let (name, text) = (name.as_ref(), text.as_ref());
            let layer = toml::from_str(text);
            let mut layer: toml::Table = layer.map_err(|error| recipe_error(name, error))?;
            tracing::debug!("recipe {name}: {}", field_names::given(&layer));
            model_table::replace_other(&mut merged, &layer);
            let is_perceiver = model_table::is_perceiver_of(&[&layer, &merged]);
            aliases::rename(&mut layer, is_perceiver)
                .map_err(|finding| recipe_error(name, finding))?;
            overlay(&mut merged, &layer);
            recipe = Self::from_table(name, &layer, &merged)?;
            // A later layer may fix what an earlier one made invalid; if none does, the earlier one
            // is to blame.
            let so_far = recipe.validate(name);
            if result.is_ok() || so_far.is_ok() {
                result = so_far;
            }
        }
        result.map(|()| recipe)
    }

    /// Parses the merged layers, the last of which is `layer`.
    fn from_table(name: &str, layer: &toml::Table, merged: &toml::Table) -> Result<Self> {
        let recipe = model_table::recipe(merged.clone());
        let is_perceiver = model_table::is_perceiver(merged);
        recipe.map_err(|error| recipe_error(name, finding(&error, layer, is_perceiver)))
    }
}

/// Merges `top` into `bottom`: tables are merged, everything else is replaced.
fn overlay(bottom: &mut toml::Table, top: &toml::Table) {
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
    let validation_split = default.validation_split.map(toml::Value::try_from);
    let fields = [
        ("split_seed", split_seed),
        (
            "use_validation_split",
            default.use_validation_split.map(toml::Value::from),
        ),
        (
            "validation_split",
            validation_split.and_then(std::result::Result::ok),
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
pub(super) fn finding(error: &toml::de::Error, layer: &toml::Table, is_perceiver: bool) -> String {
    let is_unknown = error.message().starts_with("unknown field");
    let meant = is_unknown
        .then(|| field_names::unknown(layer, is_perceiver))
        .flatten();
    meant.unwrap_or_else(|| one_line(error))
}

pub(super) fn one_line(error: &impl std::fmt::Display) -> String {
    error.to_string().trim_end().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::preset::Preset;

    #[test]
    fn later_layers_override_only_their_own_fields() {
        let recipe = Recipe::from_layers(&[
            ("file", "[model]\nlatent_dim = 7\n[training]\nseed = 5"),
            ("flags", "training.seed = 6"),
        ])
        .unwrap();
        let model = recipe.model.perceiver().unwrap();
        assert_eq!((model.latent_dim, recipe.training.seed), (7, 6));
        assert_eq!(model.projection_dim, 256);
    }

    #[test]
    fn errors_name_the_layer_and_the_field() {
        let refused = |text: &str| {
            let layers = [("keras", Preset::Keras.toml()), ("my.toml", text)];
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
    fn errors_name_the_layer_that_sets_an_invalid_value() {
        let layers = |flags| [("my.toml", "training.epochs = 0"), ("flags", flags)];
        let error = Recipe::from_layers(&layers("training.seed = 1")).unwrap_err();
        assert!(error.to_string().starts_with("recipe my.toml: "), "{error}");
        let recipe = Recipe::from_layers(&layers("training.epochs = 2")).unwrap();
        assert_eq!(recipe.training.epochs, 2);
    }
}
