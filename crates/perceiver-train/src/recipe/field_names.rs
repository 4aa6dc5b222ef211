//! Names of recipe fields, with suggestions for misspelled ones.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use crate::recipe::layers::model_table;
use crate::recipe::suggestion::nearest;
use crate::recipe::{Recipe, aliases};

/// The optional fields, which the default recipe omits.
const OPTIONAL: [&str; 16] = [
    "data.limit_train",
    "data.limit_test",
    "data.normalization.mean",
    "data.normalization.variance",
    "data.transformers_preprocessing",
    "model.stem_pooling",
    "model.stem_blocks",
    "training.budget",
    "training.clip_norm",
    "training.ema_decay",
    "training.checkpoint_every",
    "training.freeze",
    "training.head_epochs",
    "training.layer_decay",
    "training.init_from.checkpoint",
    "training.init_from.sha256",
];

/// Returns the dotted names of all fields of a recipe with a Perceiver, or else with a Perceiver IO.
fn fields(is_perceiver: bool) -> BTreeSet<String> {
    let mut names = BTreeSet::from(OPTIONAL.map(str::to_string));
    let default = Table::try_from(Recipe::default()).unwrap_or_default();
    collect("", &default, &mut names);
    if !is_perceiver {
        names.retain(|name| !name.starts_with("model."));
        let of_perceiver_io = model_table::perceiver_io_fields().into_iter();
        names.extend(of_perceiver_io.map(|field| format!("model.{field}")));
    }
    names.insert("model.type".to_string());
    names
}

fn collect(above: &str, table: &Table, names: &mut BTreeSet<String>) {
    for (name, value) in table {
        match value {
            Value::Table(below) => collect(&format!("{above}{name}."), below, names),
            _ => {
                names.insert(format!("{above}{name}"));
            }
        }
    }
}

/// Returns the dotted names of a layer's fields, with their values.
pub(crate) fn values(layer: &Table) -> Vec<(String, &Value)> {
    fn collect<'a>(above: &str, table: &'a Table, fields: &mut Vec<(String, &'a Value)>) {
        for (name, value) in table {
            match value {
                Value::Table(below) => collect(&format!("{above}{name}."), below, fields),
                value => fields.push((format!("{above}{name}"), value)),
            }
        }
    }
    let mut fields = Vec::new();
    collect("", layer, &mut fields);
    fields
}

/// Formats the fields of a layer and their values for messages.
pub(crate) fn given(layer: &Table) -> String {
    let fields = values(layer).into_iter();
    let fields: Vec<String> = fields
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    if fields.is_empty() {
        return "no fields".to_string();
    }
    fields.join(", ")
}

/// Returns the error for the first unknown field of a layer without aliases, if another field has a
/// similar name or alias.
pub(crate) fn unknown(layer: &Table, is_perceiver: bool) -> Option<String> {
    let (fields, mut given) = (fields(is_perceiver), BTreeSet::new());
    collect("", layer, &mut given);
    let is_known = |name: &String| {
        let below = format!("{name}.");
        // A table where a value is expected is another error, and so is the reverse.
        let is_above =
            |field: &String| field.starts_with(&below) || name.starts_with(&format!("{field}."));
        fields.contains(name) || fields.iter().any(is_above)
    };
    let unknown = given.iter().find(|name| !is_known(name))?;
    let aliases = aliases::dotted().filter(|(name, _)| is_perceiver || !name.starts_with("model."));
    let aliases: BTreeMap<String, String> = aliases.collect();
    let names = fields.iter().chain(aliases.keys()).map(String::as_str);
    let meant = nearest(unknown, names)?;
    let meant = aliases.get(meant).map_or(meant, String::as_str);
    Some(format!("unknown field {unknown}; did you mean {meant}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Option<String> {
        unknown(&toml::from_str(text).unwrap(), true)
    }

    #[test]
    fn errors_suggest_the_nearest_field() {
        for (text, meant) in [
            ("training.lr = 3", "training.learning_rate"),
            ("num_iterations = 3", "model.num_iterations"),
            ("training.learning_rat = 1", "training.learning_rate"),
            ("epochs = 1", "training.epochs"),
            ("model.dropout = 0.1", "model.dropout_rate"),
            (
                "training.weight_decay = 0.1",
                "training.optimizer.weight_decay",
            ),
            ("data.mixup = 0.1", "data.augmentation.mixing.mixup"),
            ("training.limit_train = 7", "data.limit_train"),
            ("training.clipnorm = 1.0", "training.clip_norm"),
            ("training.avraging = 0.9", "training.ema_decay"),
            ("num_latents = 3", "model.latent_dim"),
        ] {
            let message = message(text).unwrap_or_else(|| panic!("{text}: nothing"));
            assert!(
                message.ends_with(&format!("; did you mean {meant}?")),
                "{message}"
            );
        }
        assert_eq!(message("model.zebra = 1"), None);
        assert_eq!(message("training.epochs = 1\ndata.limit_train = 9"), None);
    }

    /// A field missing in `OPTIONAL` would never be suggested, and would be called unknown beside
    /// an error in another field.
    #[test]
    fn the_field_list_matches_serde() {
        let fields = fields(true);
        let tables: BTreeSet<&str> = fields
            .iter()
            .filter_map(|name| Some(name.rsplit_once('.')?.0))
            .collect();
        for table in tables {
            let text = format!("{table}.zebra = 1");
            let error = Recipe::parse(&text).unwrap_err();
            let listed = error.split("expected ").nth(1).unwrap_or_default();
            let known: Vec<&str> = listed.split('`').skip(1).step_by(2).collect();
            let known = known.iter().filter(|name| **name != table);
            let names: Vec<String> = known.map(|name| format!("{table}.{name}")).collect();
            assert!(!names.is_empty(), "{error}");
            for name in names {
                let below = format!("{name}.");
                let is_there = |field: &String| *field == name || field.starts_with(&below);
                assert!(fields.iter().any(is_there), "{name} is missing");
            }
        }
    }
}
