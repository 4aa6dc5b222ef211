//! Counts files of tar shards that belong to no sample.
//!
//! The key of a sample ends at the first dot of a file's name, as in WebDataset. `22.05_0000.png`
//! is a file of sample `22` with the extension `05_0000.png`, which is not an image extension.

use std::collections::BTreeSet;

use crate::error::{DataError, Result};
use crate::image_formats::is_image_extension;

/// The skipped files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnpairedFiles {
    files: usize,
    /// The first of them.
    example: Option<String>,
    /// The classes named by skipped label files.
    classes: BTreeSet<u32>,
}

impl UnpairedFiles {
    /// Whether a file with this extension (all after the first dot) looks like a part of a sample
    /// whose name has more dots.
    pub(super) fn concerns(extension: &str) -> bool {
        extension
            .rsplit_once('.')
            .is_some_and(|(_, last)| is_image_extension(last) || is_label_extension(last))
    }

    pub(super) fn add(&mut self, file: String, class: Option<i64>) {
        self.files += 1;
        self.example.get_or_insert(file);
        self.classes
            .extend(class.and_then(|class| u32::try_from(class).ok()));
    }

    /// Merges the counts of another file.
    pub(super) fn join(&mut self, other: Self) {
        self.files += other.files;
        self.example = self.example.take().or(other.example);
        self.classes.extend(other.classes);
    }

    /// Logs the number of skipped files of data set `name`.
    ///
    /// # Errors
    /// [`DataError::Inconsistent`] when a class has lost all its images: it is not among the
    /// remaining `labels`.
    pub(super) fn report(&self, name: &str, classes: &[String], labels: &[&[u32]]) -> Result<()> {
        let Some(example) = &self.example else {
            return Ok(());
        };
        let finding = format!(
            "{} files that belong to no sample, such as {example}, whose key ends at its first dot; keep only the dot before the \
             extension",
            self.files
        );
        let mut lost = self.classes.clone();
        lost.retain(|class| !labels.iter().any(|labels| labels.contains(class)));
        match lost.first() {
            None => {
                tracing::warn!("{name}: skipped {finding}");
                Ok(())
            }
            Some(&class) => Err(DataError::Inconsistent {
                name: name.to_owned(),
                expected: match classes.get(class as usize) {
                    Some(named) => format!("images of class {named:?}"),
                    None => format!("images of class {class}"),
                },
                found: format!("none, but {finding}"),
            }),
        }
    }
}

/// Whether an extension is that of label files.
pub(super) fn is_label_extension(extension: &str) -> bool {
    extension.eq_ignore_ascii_case("cls")
}
