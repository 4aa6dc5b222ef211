//! Time budgets of runs: `90s`, `10m`, `1h30m`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// The wall-clock time of a run, from the start of the program to the test results.
///
/// ```
/// use perceiver_train::Budget;
///
/// let budget: Budget = "1h30m".parse()?;
/// assert_eq!(budget.duration().as_secs(), 5400);
/// assert_eq!(budget.to_string(), "1h 30m");
/// assert!("90".parse::<Budget>().is_err()); // seconds, minutes?
/// # Ok::<(), perceiver_train::TrainError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Budget(Duration);

impl Budget {
    /// Creates a budget in whole seconds: `seconds` rounded up, at least one.
    pub(crate) fn of_seconds(seconds: f64) -> Self {
        Self(Duration::from_secs(seconds.ceil().max(1.0) as u64))
    }

    /// Returns the duration.
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Budget {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self, TrainError> {
        match humantime::parse_duration(text) {
            Ok(duration) if !duration.is_zero() => Ok(Self(duration)),
            _ => Err(TrainError::Budget {
                found: text.to_string(),
            }),
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&humantime::format_duration(self.0).to_string())
    }
}

impl TryFrom<String> for Budget {
    type Error = TrainError;

    fn try_from(text: String) -> Result<Self, TrainError> {
        text.parse()
    }
}

impl From<Budget> for String {
    fn from(budget: Budget) -> Self {
        budget.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_trip_as_text() {
        for text in ["90s", "10m", "1h30m", "2h 5m 1s", "1500ms"] {
            let budget: Budget = text.parse().unwrap();
            assert_eq!(budget.to_string().parse::<Budget>().unwrap(), budget);
        }
    }

    #[test]
    fn invalid_durations_are_rejected_by_name() {
        for text in [
            "",
            "0",
            "0s",
            "600",
            "10",
            "ten minutes",
            "-5m",
            "5 parsecs",
        ] {
            let error = text.parse::<Budget>().unwrap_err().to_string();
            let expected = format!(
                "budget: expected a duration above 0 with its units, such as 90s, 10m or 1h30m, found {text:?}"
            );
            assert_eq!(error, expected);
        }
    }
}
