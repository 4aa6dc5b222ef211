//! Files in tar shards that are called images or labels and belong to no sample: counted and named, so that none is lost in silence.
//!
//! The key of a sample ends at the first dot of a file's name, as WebDataset has it. `22.05_0000.png` is a file of sample `22` with the
//! extension `05_0000.png`, which is no image's.

use std::collections::BTreeSet;

use crate::error::{DataError, Result};
use crate::image_formats::is_image_extension;

/// The files that were passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnpairedFiles {
    files: usize,
    /// The first of them.
    example: Option<String>,
    /// The classes that those which are labels name.
    classes: BTreeSet<u32>,
}

impl UnpairedFiles {
    /// Whether a file with this extension, which is what follows the first dot, looks like a part of a sample whose name has other dots.
    pub(super) fn concerns(extension: &str) -> bool {
        extension
            .rsplit_once('.')
            .is_some_and(|(_, last)| is_image_extension(last) || is_label_extension(last))
    }

    pub(super) fn note(&mut self, file: String, class: Option<i64>) {
        self.files += 1;
        self.example.get_or_insert(file);
        self.classes
            .extend(class.and_then(|class| u32::try_from(class).ok()));
    }

    /// Adds those of another file.
    pub(super) fn join(&mut self, other: Self) {
        self.files += other.files;
        self.example = self.example.take().or(other.example);
        self.classes.extend(other.classes);
    }

    /// Says how many files of data set `name` were passed over.
    ///
    /// # Errors
    /// [`DataError::Inconsistent`] when a class has lost all its images: it is none of the `labels` that are left.
    pub(super) fn say(&self, name: &str, classes: &[String], labels: &[&[u32]]) -> Result<()> {
        let Some(example) = &self.example else {
            return Ok(());
        };
        let finding = format!(
            "{} files that belong to no sample, such as {example}, whose key ends at its first dot; leave only the dot before the \
             extension",
            self.files
        );
        let mut lost = self.classes.clone();
        lost.retain(|class| !labels.iter().any(|labels| labels.contains(class)));
        match lost.first() {
            None => {
                tracing::warn!("{name}: passed over {finding}");
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

/// Whether files of labels are called so.
pub(super) fn is_label_extension(extension: &str) -> bool {
    extension.eq_ignore_ascii_case("cls")
}
