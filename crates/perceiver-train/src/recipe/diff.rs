//! Differences between two recipes, field by field.

use std::fmt;

use toml::{Table, Value};

use crate::error::Result;
use crate::recipe::Recipe;
use crate::recipe::layers::recipe_error;

/// A field that differs between two tables, with both values as TOML; `unset` for a missing one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The dotted name of the field, such as `training.learning_rate`.
    pub field: String,
    /// The value in the first table.
    pub expected: String,
    /// The value in the second table.
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            field,
            expected,
            found,
        } = self;
        write!(f, "{field}: expected {expected}, found {found}")
    }
}

impl Difference {
    /// Returns all differing fields of two recipes in alphabetical order.
    ///
    /// # Errors
    /// When TOML cannot represent a number.
    pub fn between(expected: &Recipe, found: &Recipe) -> Result<Vec<Self>> {
        Ok(Self::all(&table(expected)?, &table(found)?))
    }

    /// Returns the first differing field in alphabetical order.
    pub(crate) fn first(expected: &Table, found: &Table) -> Option<Self> {
        Self::all(expected, found).into_iter().next()
    }

    /// Returns all differing fields in alphabetical order.
    pub(crate) fn all(expected: &Table, found: &Table) -> Vec<Self> {
        let mut differences = Vec::new();
        Self::below("", expected, found, &mut differences);
        differences
    }

    fn below(prefix: &str, a: &Table, b: &Table, differences: &mut Vec<Self>) {
        let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let field = format!("{prefix}{name}");
            match (a.get(name), b.get(name)) {
                (Some(Value::Table(a)), Some(Value::Table(b))) => {
                    Self::below(&format!("{field}."), a, b, differences);
                }
                (a, b) if a == b => {}
                (a, b) => {
                    let text = |value: Option<&Value>| {
                        value.map_or_else(|| "unset".to_string(), ToString::to_string)
                    };
                    differences.push(Self {
                        field,
                        expected: text(a),
                        found: text(b),
                    });
                }
            }
        }
    }
}

fn table(recipe: &Recipe) -> Result<Table> {
    Table::try_from(recipe).map_err(|error| recipe_error("of a run", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_differing_field_is_listed_once() {
        let [a, b] = [
            "a = 1\nc = 2\n[t]\nx = 1\ny = 2",
            "a = 1\nb = 3\n[t]\nx = 1\ny = 4",
        ]
        .map(|text| toml::from_str::<Table>(text).unwrap());
        let actual: Vec<[String; 3]> = Difference::all(&a, &b)
            .into_iter()
            .map(|difference| [difference.field, difference.expected, difference.found])
            .collect();
        let expected = [["b", "unset", "3"], ["c", "2", "unset"], ["t.y", "2", "4"]];
        assert_eq!(actual, expected.map(|fields| fields.map(str::to_string)));
        assert_eq!(Difference::first(&a, &a), None);
    }
}
