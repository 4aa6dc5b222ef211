//! The sweep file: variants and seeds to compare.
//!
//! ```toml
//! seeds = [0, 1, 2]
//!
//! [[variant]]
//! name = "plain"
//!
//! [[variant]]
//! name = "cutmix"
//! data.augmentation.mixing.cutmix = 1.0
//! ```

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use perceiver_train::Seed;
use serde::Deserialize;
use toml::{Table, Value};

use crate::args::errors::usage_error;
use crate::args::overrides::{Layer, read};

/// The variants and seeds of a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SweepFile {
    /// The seeds; by default that of the recipe.
    pub(crate) seeds: Option<Vec<Seed>>,
    #[serde(rename = "variant", default)]
    pub(crate) variants: Vec<Variant>,
}

/// A variant: a name, and the recipe fields that it changes.
#[derive(Debug, Deserialize)]
pub(crate) struct Variant {
    pub(crate) name: String,
    #[serde(flatten)]
    changes: Table,
}

impl Variant {
    /// Returns the changes and the seed as layers, named for errors.
    pub(crate) fn layers(&self, seed: u64) -> [Layer; 2] {
        let seed = Value::try_from(Seed(seed)).unwrap_or_else(|_| seed.to_string().into());
        let training = Table::from_iter([("seed".to_string(), seed)]);
        [
            (
                format!("of --sweep, variant {}", self.name),
                self.changes.clone(),
            ),
            (
                "of --sweep, seeds".to_string(),
                Table::from_iter([("training".to_string(), training.into())]),
            ),
        ]
    }
}

impl SweepFile {
    /// Reads and checks a sweep file.
    ///
    /// # Errors
    /// When the file does not exist, is not valid TOML, or repeats a variant or seed.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let table = read("--sweep", path)?;
        Self::from_table(table)
            .with_context(|| format!("--sweep {}", path.display()))
            .map_err(usage_error)
    }

    fn from_table(table: Table) -> Result<Self> {
        let sweep: Self = table.try_into()?;
        ensure!(
            !sweep.variants.is_empty(),
            "expected at least one [[variant]], found none"
        );
        let mut names = HashSet::new();
        for variant in &sweep.variants {
            check(variant)?;
            // Some file systems are case-insensitive.
            if !names.insert(variant.name.to_lowercase()) {
                bail!(
                    "variant {:?}: expected unique names, found it twice",
                    variant.name
                );
            }
        }
        if let Some(seeds) = &sweep.seeds {
            let seeds: Vec<u64> = seeds.iter().map(|seed| seed.0).collect();
            let different: HashSet<_> = seeds.iter().collect();
            ensure!(
                !seeds.is_empty() && different.len() == seeds.len(),
                "seeds: expected at least one, without duplicates, found {seeds:?}"
            );
        }
        Ok(sweep)
    }
}

/// Checks that the name is valid for a directory, and that the seed is left to `seeds`.
fn check(variant: &Variant) -> Result<()> {
    let name = &variant.name;
    let of_files = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    ensure!(
        !name.is_empty() && name.chars().all(of_files) && !name.starts_with(['.', '-']),
        "variant {name:?}: expected a name of letters, digits, `-`, `_` and `.`, for a directory"
    );
    let training = variant.changes.get("training");
    let seed = training.and_then(|training| training.get("seed"));
    ensure!(
        seed.is_none(),
        "variant {name:?}: expected no training.seed, as `seeds` sets it for all variants"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use perceiver_train::Preset;

    use super::*;

    fn parse(text: &str) -> Result<SweepFile> {
        SweepFile::from_table(toml::from_str(text)?)
    }

    #[test]
    fn a_variant_is_a_set_of_overrides() {
        let text =
            "[[variant]]\nname = 'a'\n[[variant]]\nname = 'b.1'\ntraining.learning_rate = 0.1";
        let sweep = parse(text).unwrap();
        assert_eq!(sweep.seeds, None);
        assert!(sweep.variants[0].changes.is_empty());
        let [(name, changes), (_, seed)] = sweep.variants[1].layers(7);
        assert_eq!(name, "of --sweep, variant b.1");
        assert_eq!(
            changes,
            toml::from_str("training.learning_rate = 0.1").unwrap()
        );
        assert_eq!(seed, toml::from_str("training.seed = 7").unwrap());
    }

    #[test]
    fn the_documented_sweep_is_valid() {
        let text = include_str!("../../../../../../docs/recipes.md");
        let start = text.find("# sweep.toml").unwrap();
        let sweep = parse(text[start..].split("```").next().unwrap()).unwrap();
        assert_eq!(sweep.variants.len(), 3);
        for variant in &sweep.variants {
            let layers = variant.layers(0);
            crate::args::overrides::recipe_over(Preset::Quickstart, &layers).unwrap();
        }
    }

    #[test]
    fn invalid_sweeps_are_rejected() {
        for (text, finding) in [
            ("", "at least one [[variant]]"),
            ("[[variant]]\nname = ''", "expected a name of letters"),
            ("[[variant]]\nname = '../a'", "variant \"../a\": expected"),
            ("[[variant]]\nname = '.a'", "variant \".a\": expected"),
            ("[[variant]]\ntraining.seed = 1", "missing field `name`"),
            (
                "[[variant]]\nname = 'a'\n[[variant]]\nname = 'A'",
                "variant \"A\": expected unique names",
            ),
            ("seeds = []\n[[variant]]\nname = 'a'", "found []"),
            ("seeds = [1, 1]\n[[variant]]\nname = 'a'", "found [1, 1]"),
            ("seeds = [-1]\n[[variant]]\nname = 'a'", "seeds"),
            (
                "seed = [1]\n[[variant]]\nname = 'a'",
                "unknown field `seed`",
            ),
            (
                "[[variant]]\nname = 'a'\ntraining.seed = 1",
                "expected no training.seed",
            ),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(finding), "{text}: {error}");
        }
    }
}
