//! Class names: read from a file, and matched between splits that list them in another order.
//!
//! A label is an index into the class list of one split. If another split, or a model evaluated on
//! it, lists classes in another order, labels are matched by name, never by index. Otherwise a test
//! split with `dog, cat` instead of `cat, dog` would silently be scored against wrong labels.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;

use perceiver_files::read_text;

use crate::error::{DataError, Result};

/// The largest number of classes of a data set. A larger label, or a column with more distinct
/// texts, is taken for something else, such as an id.
pub const MAX_CLASSES: usize = 100_000;

/// Reads a list of unique class names, one per line. Ignores a byte order mark and empty lines at
/// the end, and accepts any line ending.
///
/// # Errors
/// [`DataError::Missing`] without the file, [`DataError::Io`] when it cannot be read,
/// [`DataError::Shard`] with the line that is empty or repeats a name, and for more than
/// [`MAX_CLASSES`] names.
pub fn read_class_names(path: &Path) -> Result<Vec<String>> {
    let text = read_text(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => DataError::Missing {
            path: path.to_owned(),
            expected: "a file of class names, one per line".to_owned(),
        },
        _ => DataError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        },
    })?;
    let lines = text.trim_end().lines();
    let names: Vec<String> = lines.map(|line| line.trim().to_owned()).collect();
    let invalid = |found: String| DataError::Shard {
        path: path.to_owned(),
        expected: "unique and non-empty class names, one per line".to_owned(),
        found,
    };
    if names.is_empty() {
        return Err(invalid("none".to_owned()));
    }
    let again = repeated(&names);
    let empty = names.iter().position(String::is_empty);
    if let Some(at) = [again, empty].into_iter().flatten().min() {
        return Err(invalid(format!("{:?} in line {}", names[at], at + 1)));
    }
    require_few_enough(path, names.len())?;
    Ok(names)
}

/// Checks that class names are unique; `origin` is the file they come from.
///
/// # Errors
/// [`DataError::Shard`] with the first repeated name, and for more than [`MAX_CLASSES`].
#[cfg(feature = "parquet")]
pub(crate) fn require_distinct(origin: &Path, names: &[String]) -> Result<()> {
    require_few_enough(origin, names.len())?;
    match repeated(names) {
        None => Ok(()),
        Some(at) => Err(DataError::Shard {
            path: origin.to_owned(),
            expected: "unique class names".to_owned(),
            found: format!("{:?} again as the name of class {at}", names[at]),
        }),
    }
}

/// Checks that a data set has at most [`MAX_CLASSES`] classes.
///
/// # Errors
/// [`DataError::Shard`] if it has more.
pub(crate) fn require_few_enough(origin: &Path, classes: usize) -> Result<()> {
    if classes <= MAX_CLASSES {
        return Ok(());
    }
    Err(DataError::Shard {
        path: origin.to_owned(),
        expected: format!("at most {MAX_CLASSES} classes"),
        found: format!("{classes}"),
    })
}

/// Returns the index of the first repeated name.
fn repeated(names: &[String]) -> Option<usize> {
    let mut seen = HashSet::with_capacity(names.len());
    names.iter().position(|name| !seen.insert(name))
}

/// A mapping of labels from one list of classes to another.
#[derive(Debug)]
pub(crate) struct ClassMap<'a> {
    from: &'a [String],
    to: &'a [String],
    /// The index in `to` of every class of `from`, or `None` if `to` lacks it.
    indices: Vec<Option<u32>>,
}

impl<'a> ClassMap<'a> {
    /// Matches the classes of `from` with those of `to` by name.
    pub(crate) fn new(from: &'a [String], to: &'a [String]) -> Self {
        let indices = if from == to {
            (0..from.len() as u32).map(Some).collect()
        } else {
            let index_of: HashMap<&String, u32> = to.iter().zip(0..).collect();
            from.iter()
                .map(|name| index_of.get(name).copied())
                .collect()
        };
        Self { from, to, indices }
    }

    /// Returns the index in the second list of every class of the first, or `None` if it is
    /// missing.
    pub(crate) fn indices(&self) -> &[Option<u32>] {
        &self.indices
    }

    /// Whether the lists share a class name.
    pub(crate) fn has_common(&self) -> bool {
        self.indices.iter().any(Option::is_some)
    }

    /// Maps labels to the second list, in place. `origin` is their file or data set, for errors.
    ///
    /// # Errors
    /// [`DataError::OtherClasses`] for labels of a class that the second list lacks.
    pub(crate) fn apply(&self, origin: &str, labels: &mut [u32]) -> Result<()> {
        for at in 0..labels.len() {
            match self.indices.get(labels[at] as usize) {
                Some(Some(index)) => labels[at] = *index,
                _ => return Err(self.unknown(origin, &labels[at..])),
            }
        }
        Ok(())
    }

    /// Returns the error for labels of which the first has no class in the second list.
    fn unknown(&self, origin: &str, rest: &[u32]) -> DataError {
        let class = |label: u32| match self.from.get(label as usize) {
            Some(name) => format!("{name:?}"),
            None => label.to_string(),
        };
        let lost: HashSet<u32> = rest
            .iter()
            .copied()
            .filter(|&label| !matches!(self.indices.get(label as usize), Some(Some(_))))
            .collect();
        let numbered = self
            .from
            .iter()
            .zip(0..)
            .all(|(name, number): (_, u32)| *name == number.to_string());
        let more = match lost.len() {
            1 => String::new(),
            count => format!(" and {} more such classes", count - 1),
        };
        let hint = if numbered {
            "; its classes have no names: add a classes.txt next to the data"
        } else {
            ""
        };
        DataError::OtherClasses {
            name: origin.to_owned(),
            expected: some_of(self.to),
            found: format!("{}{more}{hint}", class(rest[0])),
        }
    }
}

/// Formats the first few names and their total number.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|n| format!("{n:?}")).collect();
    let shown = shown.join(", ");
    if names.len() > SHOWN {
        format!("{shown} and {} more", names.len() - SHOWN)
    } else {
        shown
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn class_names_are_unique_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("classes.txt");
        let missing = read_class_names(&path).unwrap_err();
        assert!(matches!(missing, DataError::Missing { .. }), "{missing}");
        for text in [
            "ant\r\nbee hive\n",
            "\u{feff}ant\r\nbee hive\r\n\r\n",
            "ant \n bee hive",
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(read_class_names(&path).unwrap(), ["ant", "bee hive"]);
        }
        for (text, expected) in [
            ("", "found none"),
            ("\u{feff}\r\n", "found none"),
            ("a\n\nb", "\"\" in line 2"),
            ("a\nb\na", "\"a\" in line 3"),
        ] {
            fs::write(&path, text).unwrap();
            let error = read_class_names(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_number_of_classes_is_limited() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("classes.txt");
        let text = |count: usize| {
            let names: Vec<String> = (0..count).map(|n| format!("n{n}")).collect();
            names.join("\n")
        };
        fs::write(&path, text(MAX_CLASSES)).unwrap();
        assert_eq!(read_class_names(&path).unwrap().len(), MAX_CLASSES);
        fs::write(&path, text(MAX_CLASSES + 1)).unwrap();
        let error = read_class_names(&path).unwrap_err().to_string();
        assert!(
            error.ends_with("expected at most 100000 classes, found 100001"),
            "{error}"
        );
    }

    #[test]
    fn labels_are_matched_by_name() {
        let (from, to) = (names(&["dog", "cat", "eel"]), names(&["cat", "dog", "owl"]));
        let map = ClassMap::new(&from, &to);
        assert!(map.has_common());
        let mut labels = [0, 1, 1, 0];
        map.apply("pets", &mut labels).unwrap();
        assert_eq!(labels, [1, 0, 0, 1]);
        let error = map.apply("pets", &mut [0, 2, 2]).unwrap_err().to_string();
        assert_eq!(
            error,
            "pets: expected images of the classes \"cat\", \"dog\", \"owl\", found class \"eel\""
        );
        assert_eq!(
            ClassMap::new(&to, &to).indices(),
            [Some(0), Some(1), Some(2)]
        );
    }

    #[test]
    fn unnamed_classes_are_explained() {
        let (from, to) = (names(&["0", "1", "2"]), names(&["cat", "dog"]));
        let error = ClassMap::new(&from, &to).apply("pets", &mut [2, 0, 1, 0]);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("found class \"2\" and 2 more such classes; its classes have no names"),
            "{error}"
        );
    }
}
