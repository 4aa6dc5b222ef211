//! Which labels of a data set to learn: its classes, or the coarse groups of them; and labels as files have them.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};

/// The labels to learn where a data set has two kinds, as CIFAR-100 has 100 classes in 20 groups.
///
/// ```
/// use perceiver_data::Labels;
///
/// assert_eq!("coarse".parse::<Labels>()?, Labels::Coarse);
/// assert_eq!(Labels::default().to_string(), "fine");
/// # Ok::<(), perceiver_data::DataError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Labels {
    /// The classes themselves.
    #[default]
    Fine,
    /// The groups that the classes belong to.
    Coarse,
}

impl Labels {
    /// Refuses coarse labels for a data set that has none.
    pub(crate) fn require_fine(self, dataset: impl fmt::Display) -> Result<()> {
        match self {
            Self::Fine => Ok(()),
            Self::Coarse => Err(DataError::InvalidOption {
                option: "labels",
                expected: format!("fine, the only labels that {dataset} has"),
                found: self.to_string(),
            }),
        }
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fine => "fine",
            Self::Coarse => "coarse",
        })
    }
}

impl FromStr for Labels {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "fine" => Ok(Self::Fine),
            "coarse" => Ok(Self::Coarse),
            _ => Err(DataError::InvalidOption {
                option: "labels",
                expected: "fine or coarse".into(),
                found: format!("{text:?}"),
            }),
        }
    }
}

/// Classes without names are told by the largest label; beyond this a label is taken for something else.
pub(crate) const MAX_UNNAMED_CLASSES: usize = 100_000;

/// The names of so many classes that have none.
pub(crate) fn numbered(count: u32) -> Vec<String> {
    (0..count).map(|class| class.to_string()).collect()
}

/// The labels of a file as class indices, all below `classes`.
pub(crate) fn class_indices(path: &Path, labels: &[i64], classes: usize) -> Result<Vec<u32>> {
    let checked = |(record, &label): (usize, &i64)| {
        let class = u32::try_from(label)
            .ok()
            .filter(|&class| (class as usize) < classes);
        class.ok_or_else(|| DataError::LabelOutOfRange {
            path: path.to_owned(),
            record,
            label,
            classes,
        })
    };
    labels.iter().enumerate().map(checked).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_serde_agree() {
        for labels in [Labels::Fine, Labels::Coarse] {
            assert_eq!(labels.to_string().parse::<Labels>().unwrap(), labels);
            let json = serde_json::to_string(&labels).unwrap();
            assert_eq!(json, format!("\"{labels}\""));
        }
    }

    #[test]
    fn another_word_is_refused_with_the_accepted_ones() {
        let error = "superclass".parse::<Labels>().unwrap_err().to_string();
        assert_eq!(
            error,
            r#"labels: expected fine or coarse, found "superclass""#
        );
    }
}
