//! Broken images: skipped with a warning, or an error.
//!
//! Split and order are drawn from the names of images, or in Parquet their rows, so a broken image
//! does not affect the others. A resumed run reads the same data, since broken images stay broken;
//! if one was repaired meanwhile, the data's hash differs.

use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::dataset::image::Image;
use crate::error::{DataError, Result};

/// The handling of unreadable images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BrokenImages {
    /// Each broken image is logged as a warning and skipped.
    #[default]
    Skip,
    /// The first broken image is an error.
    Refuse,
}

impl BrokenImages {
    /// Defers the error of one broken image to be reported later, if it concerns that image only
    /// and broken images are skipped.
    ///
    /// # Errors
    /// The image's error, if broken images are refused or the disk is at fault.
    pub fn apply<T>(self, result: Result<T>) -> Result<Result<T>> {
        match result {
            Err(error) if self == Self::Refuse || !concerns_one_image(&error) => Err(error),
            other => Ok(other),
        }
    }
}

/// Whether an error concerns one image only, not the disk or the machine, in which case the next
/// image may fail as well.
fn concerns_one_image(error: &DataError) -> bool {
    match error {
        DataError::NotAnImage { .. } | DataError::TooManyPixels { .. } => true,
        DataError::Io { source, path, .. } => {
            concerns_one_file(source.kind()) || is_broken_link(path)
        }
        _ => false,
    }
}

/// Whether a link is dangling or circular.
pub(crate) fn is_broken_link(path: &Path) -> bool {
    path.is_symlink() && !path.exists()
}

/// Whether an error of this kind concerns one file or folder only, not the disk, in which case the
/// next one may fail as well.
pub(crate) fn concerns_one_file(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::InvalidFilename
            | ErrorKind::InvalidInput // not a regular file
            | ErrorKind::FileTooLarge
    )
}

/// Returns the readable images of data set `name`, with their associated values. Logs each of the
/// others by name, and then their number.
///
/// # Errors
/// When there are images and none is readable.
pub(crate) fn readable<T>(
    name: &str,
    results: impl IntoIterator<Item = (Result<Image>, T)>,
) -> Result<(Vec<Image>, Vec<T>)> {
    let (mut images, mut belongings) = (Vec::new(), Vec::new());
    let mut broken = 0;
    for (result, belonging) in results {
        match result {
            Ok(image) => {
                images.push(image);
                belongings.push(belonging);
            }
            Err(error) => {
                broken += 1;
                tracing::warn!("{error}; skipped");
            }
        }
    }
    if broken == 0 {
        return Ok((images, belongings));
    }
    let total = images.len() + broken;
    if images.is_empty() {
        return Err(DataError::Inconsistent {
            name: name.to_owned(),
            expected: "readable images".into(),
            found: format!("none among {total}"),
        });
    }
    tracing::warn!("{name}: {broken} of {total} images cannot be read and were skipped");
    Ok((images, belongings))
}

/// Checks that every class of data set `name` with images still has a readable one. `before` and
/// `after` are the labels of all and of the readable images.
///
/// # Errors
/// [`DataError::UnreadableClass`] with the first class that has none.
pub(crate) fn require_every_class(
    name: &str,
    before: &[u32],
    after: &[u32],
    classes: &[String],
) -> Result<()> {
    let count = |labels: &[u32]| {
        let mut counts = vec![0_usize; classes.len()];
        for &label in labels {
            if let Some(count) = counts.get_mut(label as usize) {
                *count += 1;
            }
        }
        counts
    };
    let counts = count(before).into_iter().zip(count(after));
    match classes
        .iter()
        .zip(counts)
        .find(|(_, (had, has))| *had > 0 && *has == 0)
    {
        None => Ok(()),
        Some((class, (images, _))) => Err(DataError::UnreadableClass {
            name: name.to_owned(),
            class: class.clone(),
            images,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind};
    use std::path::PathBuf;

    use super::*;

    fn image() -> Image {
        Image::new(1, 1, vec![7; 3]).unwrap()
    }

    fn not_an_image() -> DataError {
        DataError::NotAnImage {
            path: PathBuf::from("x.png"),
            finding: "an empty file".into(),
        }
    }

    fn io_error(kind: ErrorKind) -> DataError {
        DataError::Io {
            action: "read",
            path: PathBuf::from("x.png"),
            source: io::Error::from(kind),
        }
    }

    #[test]
    fn errors_of_one_image_are_deferred_unless_broken_images_are_refused() {
        let errors: [fn() -> DataError; 2] = [not_an_image, || io_error(ErrorKind::NotFound)];
        for error in errors {
            assert!(
                BrokenImages::Skip
                    .apply::<Image>(Err(error()))
                    .unwrap()
                    .is_err()
            );
            BrokenImages::Refuse
                .apply::<Image>(Err(error()))
                .unwrap_err();
        }
        assert_eq!(
            BrokenImages::Refuse.apply(Ok(image())).unwrap().unwrap(),
            image()
        );
    }

    /// A failing disk would otherwise look like many broken images.
    #[test]
    fn disk_errors_are_not_deferred() {
        let error = BrokenImages::Skip.apply::<Image>(Err(io_error(ErrorKind::Other)));
        assert!(matches!(error, Err(DataError::Io { .. })));
    }

    #[test]
    fn readable_images_keep_their_associated_values() {
        let results = [
            (Ok(image()), 'a'),
            (Err(not_an_image()), 'b'),
            (Ok(image()), 'c'),
        ];
        let (images, belongings) = readable("x", results).unwrap();
        assert_eq!((images.len(), belongings), (2, vec!['a', 'c']));
        let none = readable("x", [(Err(not_an_image()), ())])
            .unwrap_err()
            .to_string();
        assert_eq!(
            none,
            "data set x: expected readable images, found none among 1"
        );
    }

    #[test]
    fn a_class_may_be_empty_but_not_lose_all_images() {
        let classes = ["ant", "bee", "cat"].map(String::from);
        require_every_class("x", &[0, 0, 2], &[0, 2], &classes).unwrap();
        let error = require_every_class("x", &[0, 2, 2], &[0], &classes).unwrap_err();
        assert_eq!(
            error.to_string(),
            "data set x: class \"cat\" has no readable image: expected at least one, found 2 unreadable"
        );
    }
}
