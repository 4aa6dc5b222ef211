//! Aliases of recipe fields: the names in recipes of earlier versions, and those of other programs.

use toml::{Table, Value};

/// The section, the alias and the canonical name of each field that has an alias.
const ALIASES: [(&str, &str, &str); 8] = [
    ("data", "broken_pictures", "broken_images"),
    ("data", "flip_average", "test_time_flip"),
    ("model", "num_latents", "latent_dim"),
    ("model", "d_latents", "projection_dim"),
    ("training", "accumulate", "gradient_accumulation"),
    ("training", "averaging", "ema_decay"),
    ("training", "recompute", "activation_checkpointing"),
    ("training", "side_by_side", "parallel_micro_batches"),
];

/// Renames the aliases in a recipe to canonical names; those of `[model]` only for a Perceiver, since
/// they are fields of a Perceiver IO. The error is a description in words.
///
/// # Errors
/// When a section has both names of a field.
pub(crate) fn rename(recipe: &mut Table, is_perceiver: bool) -> Result<(), String> {
    for (section, alias, canonical) in ALIASES {
        if section == "model" && !is_perceiver {
            continue;
        }
        let Some(Value::Table(fields)) = recipe.get_mut(section) else {
            continue;
        };
        let Some(value) = fields.remove(alias) else {
            continue;
        };
        if fields.contains_key(canonical) {
            return Err(format!(
                "{section}.{alias} is an alias of {section}.{canonical}: expected one of the two, found both"
            ));
        }
        fields.insert(canonical.to_string(), value);
    }
    Ok(())
}

/// Returns the dotted names of all aliases, each with that of its field.
pub(crate) fn dotted() -> impl Iterator<Item = (String, String)> {
    ALIASES.into_iter().map(|(section, alias, canonical)| {
        (
            format!("{section}.{alias}"),
            format!("{section}.{canonical}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use perceiver_data::BrokenImages;

    use super::*;
    use crate::recipe::Recipe;

    #[test]
    fn every_alias_reaches_its_field() {
        let mut recipe = Recipe::default();
        recipe.data.broken_images = BrokenImages::Refuse;
        recipe.data.test_time_flip = true;
        let model = recipe.model.perceiver_mut().unwrap();
        model.latent_dim = 7;
        model.projection_dim = 32;
        model.ffn_units = vec![32];
        recipe.training.gradient_accumulation = 2;
        recipe.training.ema_decay = Some(0.5);
        recipe.training.activation_checkpointing = true;
        recipe.training.parallel_micro_batches = 3;
        let mut text = recipe.to_toml().unwrap();
        for (section, alias, canonical) in ALIASES {
            let renamed = text.replace(&format!("\n{canonical} = "), &format!("\n{alias} = "));
            assert_ne!(renamed, text, "{section}.{canonical} is not written");
            text = renamed;
        }
        assert_eq!(Recipe::parse(&text).unwrap(), recipe);
        let layers = [("aliases", &text)];
        assert_eq!(Recipe::from_layers(&layers).unwrap(), recipe);
    }

    #[test]
    fn both_names_of_a_field_are_refused() {
        for (section, alias, canonical) in ALIASES {
            let text = format!("[{section}]\n{alias} = 1\n{canonical} = 1");
            let expected = format!("{section}.{alias} is an alias of {section}.{canonical}: ");
            let refused = Recipe::parse(&text).unwrap_err();
            assert!(refused.starts_with(&expected), "{refused}");
            let refused = Recipe::from_layers(&[("my.toml", &text)]);
            let refused = refused.unwrap_err().to_string();
            assert!(
                refused.starts_with(&format!("recipe my.toml: {expected}")),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_later_layer_overrides_under_either_name() {
        let names = ["accumulate", "gradient_accumulation"];
        for below in names {
            for above in names {
                let layers = [
                    ("below", &format!("training.{below} = 2")),
                    ("above", &format!("training.{above} = 3")),
                ];
                let recipe = Recipe::from_layers(&layers).unwrap();
                assert_eq!(recipe.training.gradient_accumulation, 3, "{below}, {above}");
            }
        }
    }
}
