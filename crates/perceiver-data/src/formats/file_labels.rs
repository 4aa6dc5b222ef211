//! Labels of several files, joined to one list of classes.
//!
//! A file stores labels in one of three ways: as numbers, as indices into a list of names (Parquet
//! with the Hub's `ClassLabel`), or as texts. Files of a split may list names in different orders,
//! so their labels are matched by name.

use std::path::{Path, PathBuf};

use crate::dataset::class_names::{ClassMap, require_few_enough};
use crate::dataset::labels::{class_indices, numbered};
use crate::error::{DataError, Result};

/// The labels of a file's images, with their classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileLabels {
    pub(crate) path: PathBuf,
    /// One label per image.
    pub(crate) labels: Vec<u32>,
    pub(crate) classes: FileClasses,
}

/// The way a file stores its classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileClasses {
    /// Numbers only.
    Numbers,
    /// Indices into this list of names.
    #[cfg_attr(not(feature = "parquet"), allow(dead_code))]
    Listed(Vec<String>),
    /// Texts: these distinct class names, sorted.
    #[cfg_attr(not(feature = "parquet"), allow(dead_code))]
    Texts(Vec<String>),
}

impl FileClasses {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Numbers => "labels without names",
            Self::Listed(_) => "a list of class names",
            Self::Texts(_) => "text labels",
        }
    }

    fn names(&self) -> Option<&[String]> {
        match self {
            Self::Numbers => None,
            Self::Listed(names) | Self::Texts(names) => Some(names),
        }
    }
}

/// Relabels several files in place to one list of classes, which is returned: `given`, or otherwise
/// the classes of the files. Labels of files without names are taken as indices into `given`, and
/// so are those of files that share no name with it, whose classes it renames.
///
/// # Errors
/// [`DataError::Inconsistent`] for files that store classes in different ways,
/// [`DataError::OtherClasses`] and [`DataError::LabelOutOfRange`], with the file.
pub(crate) fn join(files: &mut [FileLabels], given: Option<&[String]>) -> Result<Vec<String>> {
    let classes = match given {
        Some(given) => given.to_vec(),
        None => classes_of(files)?,
    };
    if let Some(file) = files.first() {
        require_few_enough(&file.path, classes.len())?;
    }
    for file in files {
        let origin = file.path.display().to_string();
        let by_name = |map: &ClassMap<'_>| match &file.classes {
            FileClasses::Listed(_) => given.is_none() || map.has_common(),
            _ => true,
        };
        let names = file.classes.names();
        let map = names.map(|names| ClassMap::new(names, &classes));
        match map.filter(by_name) {
            Some(map) => map.apply(&origin, &mut file.labels)?,
            None => require_below(&file.path, &file.labels, classes.len())?,
        }
    }
    Ok(classes)
}

/// Returns the classes found in the files.
fn classes_of(files: &[FileLabels]) -> Result<Vec<String>> {
    let Some(first) = files.first() else {
        return Ok(Vec::new());
    };
    let kind = first.classes.kind();
    if let Some(other) = files.iter().find(|file| file.classes.kind() != kind) {
        return Err(DataError::Inconsistent {
            name: other.path.display().to_string(),
            expected: format!("{kind}, as in {}", first.path.display()),
            found: other.classes.kind().to_owned(),
        });
    }
    Ok(match &first.classes {
        FileClasses::Numbers => {
            let labels = files.iter().flat_map(|file| &file.labels);
            numbered(labels.max().map_or(0, |&largest| largest + 1))
        }
        FileClasses::Listed(names) => names.clone(),
        FileClasses::Texts(_) => {
            let names = files.iter().filter_map(|file| file.classes.names());
            let mut names: Vec<String> = names.flatten().cloned().collect();
            names.sort_unstable();
            names.dedup();
            names
        }
    })
}

fn require_below(path: &Path, labels: &[u32], classes: usize) -> Result<()> {
    let labels: Vec<i64> = labels.iter().copied().map(i64::from).collect();
    class_indices(path, &labels, classes).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn file(labels: &[u32], classes: FileClasses) -> FileLabels {
        FileLabels {
            path: "x.parquet".into(),
            labels: labels.to_vec(),
            classes,
        }
    }

    fn joined(files: &mut [FileLabels], given: Option<&[&str]>) -> (Vec<String>, Vec<Vec<u32>>) {
        let given = given.map(names);
        let classes = join(files, given.as_deref()).unwrap();
        (
            classes,
            files.iter().map(|file| file.labels.clone()).collect(),
        )
    }

    #[test]
    fn class_lists_in_another_order_are_matched_by_name() {
        let mut files = [
            file(&[0, 1], FileClasses::Listed(names(&["cat", "dog"]))),
            file(&[0, 1], FileClasses::Listed(names(&["dog", "cat"]))),
        ];
        let (classes, labels) = joined(&mut files.clone(), None);
        assert_eq!(
            (classes, labels),
            (names(&["cat", "dog"]), vec![vec![0, 1], vec![1, 0]])
        );
        let (_, labels) = joined(&mut files.clone(), Some(&["eel", "dog", "cat"]));
        assert_eq!(labels, [[2, 1], [1, 2]]);
        let (_, labels) = joined(&mut files[..1], Some(&["Katze", "Hund"]));
        assert_eq!(labels, [[0, 1]], "renamed by place");
    }

    #[test]
    fn text_labels_are_sorted_alphabetically() {
        let mut files = [
            file(&[1, 0], FileClasses::Texts(names(&["cat", "eel"]))),
            file(&[0], FileClasses::Texts(names(&["dog"]))),
        ];
        let (classes, labels) = joined(&mut files, None);
        assert_eq!(
            (classes, labels),
            (names(&["cat", "dog", "eel"]), vec![vec![2, 0], vec![1]])
        );
        let error = join(&mut files[..1], Some(&names(&["Katze"]))).unwrap_err();
        assert!(error.to_string().contains("found class"), "{error}");
    }

    #[test]
    fn inconsistent_files_are_rejected_by_name() {
        let listed = || file(&[0], FileClasses::Listed(names(&["cat"])));
        let mut files = [listed(), file(&[0], FileClasses::Numbers)];
        let error = join(&mut files, None).unwrap_err().to_string();
        assert!(
            error.contains(
                "expected a list of class names, as in x.parquet, found labels without names"
            ),
            "{error}"
        );
        let mut files = [listed(), file(&[0], FileClasses::Listed(names(&["cow"])))];
        let error = join(&mut files, None).unwrap_err().to_string();
        assert!(error.ends_with("found class \"cow\""), "{error}");
    }
}
