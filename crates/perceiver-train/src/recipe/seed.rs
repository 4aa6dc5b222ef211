//! Random seeds in recipes: any `u64`. TOML's integers end at 2^63 - 1, so larger seeds are written
//! as strings.

use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A random seed as written in a recipe: a number, or a string that contains one.
///
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seed(pub u64);

impl Seed {
    /// Converts the seed to TOML.
    pub(crate) fn to_toml(self) -> toml::Value {
        match i64::try_from(self.0) {
            Ok(number) => number.into(),
            Err(_) => self.0.to_string().into(),
        }
    }
}

impl Serialize for Seed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match i64::try_from(self.0) {
            Ok(_) => serializer.serialize_u64(self.0),
            Err(_) => serializer.collect_str(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SeedVisitor)
    }
}

struct SeedVisitor;

impl Visitor<'_> for SeedVisitor {
    type Value = Seed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a seed, an integer from 0 to {}", u64::MAX)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Seed, E> {
        Ok(Seed(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Seed, E> {
        let seed = u64::try_from(number).map(Seed);
        seed.map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Seed, E> {
        let seed = text.parse().map(Seed);
        seed.map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// Serializes a seed for `serde(with)`, which passes a reference.
#[expect(clippy::trivially_copy_pass_by_ref)]
pub(crate) fn serialize<S: Serializer>(seed: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    Seed(*seed).serialize(serializer)
}

/// Deserializes a seed for `serde(with)`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Seed::deserialize(deserializer).map(|seed| seed.0)
}

/// `serde(with)` for an optional seed.
pub(crate) mod optional {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Seed;

    #[allow(clippy::ref_option)] // serde passes a reference
    pub(crate) fn serialize<S: Serializer>(
        seed: &Option<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        seed.map(Seed).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u64>, D::Error> {
        let seed = Option::<Seed>::deserialize(deserializer)?;
        Ok(seed.map(|seed| seed.0))
    }
}

#[cfg(test)]
mod tests {
    use crate::recipe::Recipe;

    #[test]
    fn any_seed_round_trips_through_a_recipe() {
        for seed in [0, 7, i64::MAX as u64, 1 << 63, u64::MAX] {
            let mut recipe = Recipe::default();
            recipe.training.seed = seed;
            recipe.data.split_seed = Some(seed);
            let text = recipe.to_toml().unwrap();
            assert_eq!(Recipe::parse(&text).unwrap(), recipe, "{text}");
        }
        // As in earlier versions.
        let text = Recipe::default().to_toml().unwrap();
        assert!(text.contains("\nseed = 0\n"), "{text}");
    }

    #[test]
    fn invalid_seeds_are_rejected() {
        for seed in ["-1", "'x'", "'-1'", "1.5", "'18446744073709551616'", "true"] {
            let error = Recipe::parse(&format!("training.seed = {seed}")).unwrap_err();
            assert!(error.contains("integer from 0 to"), "{seed}: {error}");
        }
    }
}
