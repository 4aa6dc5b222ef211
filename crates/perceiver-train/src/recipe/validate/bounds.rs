//! Bounds of all numbers in a recipe: finite, and no count beyond what a run can use.
//!
//! The bounds hold for every field, including ones that nobody thought of: they are checked on the
//! recipe's TOML. Other constraints of a field are in its own part of the recipe.

use toml::{Table, Value};

/// The maximum of each count that other numbers are multiplied by.
const MOST: [(&str, i64); 4] = [
    ("training.epochs", 1_000_000),
    ("training.batch_size", 1 << 20),
    ("training.gradient_accumulation", 1 << 20),
    ("training.parallel_micro_batches", 1 << 16),
];

/// The maximum of any other count.
const MOST_OF_ANYTHING: i64 = 1 << 40;

/// The suffix of the names of seeds, which are not counts: every number is valid.
const SEED: &str = "seed";

/// Returns the first number that is out of bounds, field first.
pub(crate) fn finding(recipe: &Table) -> Option<String> {
    of_table("", recipe)
}

fn of_table(path: &str, table: &Table) -> Option<String> {
    table.iter().find_map(|(key, value)| match path {
        "" => of_value(key, value),
        _ => of_value(&format!("{path}.{key}"), value),
    })
}

fn of_value(path: &str, value: &Value) -> Option<String> {
    match value {
        Value::Float(number) if !number.is_finite() => {
            Some(format!("{path}: expected a finite number, found {number}"))
        }
        Value::Integer(number) if !path.ends_with(SEED) => {
            let of_field = MOST.iter().find(|(field, _)| *field == path);
            let most = of_field.map_or(MOST_OF_ANYTHING, |(_, most)| *most);
            (*number > most).then(|| format!("{path}: expected at most {most}, found {number}"))
        }
        Value::Array(values) => values.iter().find_map(|value| of_value(path, value)),
        Value::Table(table) => of_table(path, table),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Recipe;

    /// Collects every number of a recipe by its dotted name, optional ones included.
    fn numbers(path: &str, table: &Table, all: &mut Vec<(String, Value)>) {
        for (key, value) in table {
            let path = format!("{path}.{key}");
            match value {
                Value::Table(table) => numbers(&path, table, all),
                Value::Integer(_) | Value::Float(_) => all.push((path, value.clone())),
                _ => {}
            }
        }
    }

    /// Returns the error for the default recipe with one field changed.
    fn refusal(path: &str, value: &Value) -> Option<String> {
        let layer = path.rsplit('.').fold(value.clone(), |value, key| {
            Table::from_iter([(key.to_string(), value)]).into()
        });
        let Value::Table(layer) = layer else {
            panic!("{path} has no table")
        };
        let refused = Recipe::from_layers(&[("a test", layer.to_string())]).err()?;
        Some(refused.to_string())
    }

    #[test]
    fn nan_infinite_and_huge_numbers_are_rejected() {
        let mut all = Vec::new();
        let recipe = Table::try_from(Recipe::default()).unwrap();
        numbers("", &recipe, &mut all);
        assert!(all.len() > 40, "{all:?}");
        for path in ["clip_norm", "ema_decay"] {
            all.push((format!(".training.{path}"), Value::Float(0.5)));
        }
        for (path, was) in all {
            let path = &path[1..];
            let wrong = match was {
                Value::Float(_) => [f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(Value::Float),
                _ if path.ends_with(SEED) => continue,
                _ => [i64::MAX, i64::MIN, 1 << 41].map(Value::Integer),
            };
            for value in wrong {
                let message = refusal(path, &value);
                let message = message.unwrap_or_else(|| panic!("{path} = {value} is accepted"));
                let field = path.rsplit('.').next().unwrap();
                assert!(
                    message.contains(field) || !path.starts_with("training"),
                    "{path}: {message}"
                );
            }
        }
    }

    #[test]
    fn numbers_without_own_checks_are_rejected_by_field() {
        assert_eq!(
            refusal("training.plateau.min_delta", &Value::Float(f64::NAN)).unwrap(),
            "recipe a test: training.plateau.min_delta: expected a finite number, found NaN"
        );
        assert_eq!(
            refusal("training.epochs", &Value::Integer(1 << 30)).unwrap(),
            "recipe a test: training.epochs: expected at most 1000000, found 1073741824"
        );
        // Finite in the file, but infinite as the `f32` that it becomes.
        let rate = refusal("training.learning_rate", &Value::Float(1e300)).unwrap();
        assert!(rate.contains("training.learning_rate"), "{rate}");
    }

    #[test]
    fn every_toml_integer_is_a_valid_seed() {
        assert_eq!(refusal("training.seed", &Value::Integer(i64::MAX)), None);
    }
}
