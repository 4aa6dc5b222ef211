//! The interval of checkpoints within an epoch, in steps or minutes.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};

/// The interval between checkpoints: `500` for steps, `10m` for minutes.
///
/// ```
/// use perceiver_train::CheckpointEvery;
///
/// let every: CheckpointEvery = "10m".parse()?;
/// assert_eq!(every.to_string(), "10m");
/// # Ok::<(), perceiver_train::TrainError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub enum CheckpointEvery {
    /// The number of steps, counted over the whole run.
    Steps(NonZeroU64),
    /// The number of minutes since the last save.
    Minutes(NonZeroU64),
}

impl CheckpointEvery {
    /// Returns whether a save is due after `steps` steps of the run and `since_save` since the last
    /// save.
    pub fn is_due(self, steps: u64, since_save: Duration) -> bool {
        match self {
            Self::Steps(every) => steps.is_multiple_of(every.get()),
            Self::Minutes(minutes) => since_save.as_secs() / 60 >= minutes.get(),
        }
    }
}

/// The TOML forms: a number or a string.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number of steps such as 500, or minutes such as \"10m\""
)]
enum Written {
    Steps(i64),
    Text(String),
}

impl TryFrom<Written> for CheckpointEvery {
    type Error = TrainError;

    fn try_from(written: Written) -> Result<Self> {
        match written {
            Written::Steps(steps) => steps.to_string().parse(),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<CheckpointEvery> for String {
    fn from(every: CheckpointEvery) -> Self {
        every.to_string()
    }
}

impl fmt::Display for CheckpointEvery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(steps) => write!(f, "{steps}"),
            Self::Minutes(minutes) => write!(f, "{minutes}m"),
        }
    }
}

impl FromStr for CheckpointEvery {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = match text.strip_suffix('m') {
            Some(minutes) => minutes.parse().map(Self::Minutes),
            None => text.parse().map(Self::Steps),
        };
        parsed.map_err(|_| TrainError::Interval {
            found: text.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every(text: &str) -> CheckpointEvery {
        text.parse().unwrap()
    }

    #[test]
    fn intervals_round_trip_as_text() {
        for text in ["1", "500", "1m", "10m"] {
            assert_eq!(every(text).to_string(), text);
        }
        let table: toml::Table = toml::from_str("a = 500\nb = '500'\nc = '10m'").unwrap();
        let read = |key: &str| table[key].clone().try_into::<CheckpointEvery>().unwrap();
        assert_eq!([read("a"), read("b")], [every("500"); 2]);
        assert_eq!(read("c"), every("10m"));
    }

    #[test]
    fn invalid_intervals_are_rejected_with_the_expected_format() {
        for text in ["0", "0m", "-5", "10h", "m", "", "1.5m"] {
            let error = text.parse::<CheckpointEvery>().unwrap_err().to_string();
            assert!(error.contains("steps such as 500"), "{error}");
        }
        for toml in ["a = -5", "a = 0", "a = 1.5", "a = [1]"] {
            let table: toml::Table = toml::from_str(toml).unwrap();
            let error = table["a"]
                .clone()
                .try_into::<CheckpointEvery>()
                .unwrap_err();
            assert!(error.to_string().contains("steps such as 500"), "{error}");
        }
    }

    #[test]
    fn saves_are_due_by_steps_or_by_minutes() {
        let seconds = Duration::from_secs;
        let at = |steps| every("3").is_due(steps, seconds(9999));
        assert_eq!([1, 2, 3, 4, 6].map(at), [false, false, true, false, true]);
        assert!(!every("2m").is_due(3, seconds(119)));
        assert!(every("2m").is_due(3, seconds(120)));
    }
}
