//! Labels: fine classes or coarse groups, and the checks of labels read from files.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};

/// The kind of labels to use if a data set has two, such as CIFAR-100 with 100 classes in 20
/// groups.
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
    /// The groups of classes.
    Coarse,
}

impl Labels {
    /// Returns an error for coarse labels of a data set that has none.
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

/// Returns numbers as the names of `count` unnamed classes.
pub(crate) fn numbered(count: u32) -> Vec<String> {
    (0..count).map(|class| class.to_string()).collect()
}

/// Converts the labels of a file to class indices, all below `classes`.
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

/// Checks that labels without names are class numbers: most numbers up to the largest label must
/// occur. If they do not, as with 0, 1000 and 2000, the labels are something else, such as ids, or
/// belong to a data set of which this is a part, so its class names must be given.
///
/// # Errors
/// [`DataError::SparseLabels`] with the first gap.
pub(crate) fn require_dense(origin: &Path, labels: impl Iterator<Item = u32>) -> Result<()> {
    let used: BTreeSet<u32> = labels.collect();
    let Some(&largest) = used.last() else {
        return Ok(());
    };
    if 2 * used.len() > largest as usize {
        return Ok(());
    }
    let mut used_or_end = used.iter().copied();
    let mut first_missing = 0;
    let after = used_or_end.find(|&label| {
        let gap = label > first_missing;
        if !gap {
            first_missing = label + 1;
        }
        gap
    });
    Err(DataError::SparseLabels {
        path: origin.to_owned(),
        used: used.len(),
        largest,
        gap: (first_missing, after.unwrap_or(largest) - 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_serde_forms_agree() {
        for labels in [Labels::Fine, Labels::Coarse] {
            assert_eq!(labels.to_string().parse::<Labels>().unwrap(), labels);
            let json = serde_json::to_string(&labels).unwrap();
            assert_eq!(json, format!("\"{labels}\""));
        }
    }

    #[test]
    fn sparse_labels_are_rejected_with_the_missing_label() {
        let dense = |labels: &[u32]| require_dense(Path::new("x"), labels.iter().copied());
        for labels in [
            &[][..],
            &[0],
            &[1],
            &[1, 2, 3],
            &[4, 0, 2, 0],
            &[0, 1, 2, 5],
        ] {
            dense(labels).unwrap();
        }
        for (labels, gap) in [
            (&[2000, 0, 1000, 0][..], "none from 1 to 999"),
            (&[7, 7], "none from 0 to 6"),
            (&[0, 1, 99_999], "none from 2 to 99998"),
        ] {
            let error = dense(labels).unwrap_err().to_string();
            assert!(error.contains(gap), "{error}");
        }
    }

    #[test]
    fn unknown_values_are_rejected_with_the_accepted_ones() {
        let error = "superclass".parse::<Labels>().unwrap_err().to_string();
        assert_eq!(
            error,
            r#"labels: expected fine or coarse, found "superclass""#
        );
    }
}
