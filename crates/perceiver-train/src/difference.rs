//! Where two recipes, as TOML, say different things.

use toml::{Table, Value};

/// A field that is not the same in two tables, and what it is in each as TOML, `nothing` where it is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The field's path, such as `training.learning_rate`.
    pub field: String,
    /// What it is in the first table.
    pub expected: String,
    /// What it is in the second.
    pub found: String,
}

impl Difference {
    /// The first field, in the order of the alphabet, that differs.
    pub fn first(expected: &Table, found: &Table) -> Option<Self> {
        Self::below("", expected, found)
    }

    fn below(prefix: &str, a: &Table, b: &Table) -> Option<Self> {
        let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
        names.sort();
        names.dedup();
        names.into_iter().find_map(|name| {
            let field = format!("{prefix}{name}");
            match (a.get(name), b.get(name)) {
                (Some(Value::Table(a)), Some(Value::Table(b))) => {
                    Self::below(&format!("{field}."), a, b)
                }
                (a, b) if a == b => None,
                (a, b) => {
                    let text = |value: Option<&Value>| {
                        value.map_or_else(|| "nothing".to_string(), ToString::to_string)
                    };
                    Some(Self {
                        field,
                        expected: text(a),
                        found: text(b),
                    })
                }
            }
        })
    }
}
