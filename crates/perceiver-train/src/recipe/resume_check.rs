//! Resume check: which recipe fields may change when a run is resumed.

use std::path::Path;

use toml::{Table, Value};

use crate::error::{Result, TrainError};
use crate::recipe::Recipe;
use crate::recipe::diff::Difference;

/// The fields that may change on resume.
const CHANGEABLE: [(&str, &str); 6] = [
    ("training", "epochs"),
    ("training", "budget"),
    ("training", "device"),
    ("training", "checkpoint_every"),
    ("data", "data_dir"),
    ("data", "dataset"), // may move: the hash of its content must stay the same
];

/// Returns the fields that may not change on resume, as TOML.
///
/// # Errors
/// When TOML cannot represent a number.
pub(crate) fn fixed_fields(recipe: &Recipe) -> Result<String> {
    toml::to_string(&table(recipe)?).map_err(|error| TrainError::Recipe {
        name: "of this run".to_string(),
        finding: error.to_string(),
    })
}

/// Checks that a run can resume with `recipe`, which is in the file `path`. `kept` is the output of
/// [`fixed_fields`] in the state file `state`. Fields that did not exist when it was written count as
/// their defaults.
///
/// # Errors
/// [`TrainError::OtherRecipe`] with the first field that differs.
pub(crate) fn require_same(kept: &str, state: &Path, recipe: &Recipe, path: &Path) -> Result<()> {
    let kept = Recipe::parse(kept).map_err(|finding| TrainError::Damaged {
        path: state.to_path_buf(),
        expected: "the recipe of the run in its metadata".to_string(),
        finding,
    })?;
    match Difference::first(&table(&kept)?, &table(recipe)?) {
        None => Ok(()),
        Some(Difference {
            field,
            expected,
            found,
        }) => Err(TrainError::OtherRecipe {
            path: path.to_path_buf(),
            field,
            expected,
            found,
        }),
    }
}

/// Returns a recipe without its changeable fields.
fn table(recipe: &Recipe) -> Result<Table> {
    let text = recipe.to_toml()?; // via text: 0.001 stays 0.001, not a nearby `f64`
    let mut table: Table = toml::from_str(&text).map_err(|error| TrainError::Recipe {
        name: "of this run".to_string(),
        finding: error.to_string(),
    })?;
    for (part, field) in CHANGEABLE {
        if let Some(Value::Table(part)) = table.get_mut(part) {
            part.remove(field);
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(text: &str) -> Recipe {
        Recipe::parse(text).unwrap()
    }

    fn difference(kept: &str, now: &str) -> Option<String> {
        let kept = fixed_fields(&recipe(kept)).unwrap();
        let checked = require_same(&kept, Path::new("s"), &recipe(now), Path::new("r.toml"));
        checked.err().map(|error| error.to_string())
    }

    #[test]
    fn fields_without_effect_on_past_steps_may_change() {
        let now = "[training]\nepochs = 9\ndevice = 'cpu'\ncheckpoint_every = 5\n[data]\ndata_dir = 'x'\ndataset = 'folder:y'";
        assert_eq!(difference("", now), None);
    }

    #[test]
    fn a_state_with_aliases_is_of_the_same_recipe() {
        let kept = "training.averaging = 0.5\ndata.flip_average = true";
        let now = recipe("training.ema_decay = 0.5\ndata.test_time_flip = true");
        require_same(kept, Path::new("s"), &now, Path::new("r.toml")).unwrap();
    }

    #[test]
    fn the_first_differing_field_is_named_with_both_values() {
        for (now, message) in [
            (
                "training.learning_rate = 0.002",
                "training.learning_rate is 0.002, but 0.001 in the saved training state",
            ),
            (
                "training.optimizer.beta_1 = 0.5\nmodel.latent_dim = 7",
                "model.latent_dim is 7, but 256 in the saved training state",
            ),
            (
                "training.clip_norm = 1.0",
                "training.clip_norm is 1.0, but unset in the saved training state",
            ),
        ] {
            let error = difference("", now).unwrap();
            assert!(error.contains(message), "{error}");
        }
    }
}
