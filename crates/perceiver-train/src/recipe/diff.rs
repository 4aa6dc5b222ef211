//! Differences between two recipes, as TOML.

use toml::{Table, Value};

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

impl Difference {
    /// Returns the first differing field in alphabetical order.
    pub fn first(expected: &Table, found: &Table) -> Option<Self> {
        Self::all(expected, found).into_iter().next()
    }

    /// Returns all differing fields in alphabetical order.
    pub fn all(expected: &Table, found: &Table) -> Vec<Self> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_that_differs_is_found_once() {
        let [a, b] = [
            "a = 1\nc = 2\n[t]\nx = 1\ny = 2",
            "a = 1\nb = 3\n[t]\nx = 1\ny = 4",
        ]
        .map(|text| toml::from_str::<Table>(text).unwrap());
        let found: Vec<[String; 3]> = Difference::all(&a, &b)
            .into_iter()
            .map(|difference| [difference.field, difference.expected, difference.found])
            .collect();
        let expected = [["b", "unset", "3"], ["c", "2", "unset"], ["t.y", "2", "4"]];
        assert_eq!(found, expected.map(|fields| fields.map(str::to_string)));
        assert_eq!(Difference::first(&a, &a), None);
    }
}
