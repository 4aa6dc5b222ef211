//! Pictures that cannot be read: passed over, each said by name, or a reason to refuse their whole data set.
//!
//! Which pictures are for training and in which order is drawn from their names, or for Parquet their rows, so a broken one
//! changes nothing for the others. Whoever goes on with a run reads the same data again, since what is broken stays broken;
//! where it was mended meanwhile, the data's hash says so.

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::image::Image;
use crate::picture_files::{concerns_one_file, is_broken_link};

/// What becomes of a data set with pictures that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BrokenPictures {
    /// Each is reported in a warning, and the rest is the data set.
    #[default]
    Skip,
    /// It is refused for the first of them.
    Refuse,
}

impl BrokenPictures {
    /// Lets through, to be reported later, what is wrong with one picture and no reason to refuse all of them.
    ///
    /// # Errors
    /// What is wrong with the picture, where it is refused or the disk is at fault.
    pub fn judge<T>(self, picture: Result<T>) -> Result<Result<T>> {
        match picture {
            Err(error) if self == Self::Refuse || !concerns_one_picture(&error) => Err(error),
            other => Ok(other),
        }
    }
}

/// Whether the picture is at fault, and not the disk or the machine, with which the next picture may fail as well.
fn concerns_one_picture(error: &DataError) -> bool {
    match error {
        DataError::NotAnImage { .. } | DataError::TooManyPixels { .. } => true,
        DataError::Io { source, path, .. } => {
            concerns_one_file(source.kind()) || is_broken_link(path)
        }
        _ => false,
    }
}

/// The pictures of data set `name` that could be read, with what belongs to each. The others are reported: each by name, and
/// at the end how many there are.
///
/// # Errors
/// When there were pictures and none could be read.
pub(crate) fn readable<T>(
    name: &str,
    pictures: impl IntoIterator<Item = (Result<Image>, T)>,
) -> Result<(Vec<Image>, Vec<T>)> {
    let (mut images, mut belongings) = (Vec::new(), Vec::new());
    let mut broken = 0;
    for (picture, belonging) in pictures {
        match picture {
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
            expected: "pictures that can be read".into(),
            found: format!("none among {total}"),
        });
    }
    tracing::warn!("{name}: {broken} of {total} pictures cannot be read and were skipped");
    Ok((images, belongings))
}

/// Makes sure that every class of data set `name` that had pictures still has one. `before` and `after` are the labels of
/// all pictures and of those that could be read.
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
        Some((class, (pictures, _))) => Err(DataError::UnreadableClass {
            name: name.to_owned(),
            class: class.clone(),
            pictures,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind};
    use std::path::PathBuf;

    use super::*;

    fn picture() -> Image {
        Image::new(1, 1, vec![7; 3]).unwrap()
    }

    fn no_picture() -> DataError {
        DataError::NotAnImage {
            path: PathBuf::from("x.png"),
            finding: "an empty file".into(),
        }
    }

    fn refused(kind: ErrorKind) -> DataError {
        DataError::Io {
            action: "read",
            path: PathBuf::from("x.png"),
            source: io::Error::from(kind),
        }
    }

    #[test]
    fn what_is_wrong_with_one_picture_is_let_through_unless_all_is_to_be_refused() {
        let errors: [fn() -> DataError; 2] = [no_picture, || refused(ErrorKind::NotFound)];
        for error in errors {
            assert!(
                BrokenPictures::Skip
                    .judge::<Image>(Err(error()))
                    .unwrap()
                    .is_err()
            );
            BrokenPictures::Refuse
                .judge::<Image>(Err(error()))
                .unwrap_err();
        }
        assert_eq!(
            BrokenPictures::Refuse
                .judge(Ok(picture()))
                .unwrap()
                .unwrap(),
            picture()
        );
    }

    /// A disk that fails would else be taken for many broken pictures.
    #[test]
    fn a_failing_disk_is_no_broken_picture() {
        let error = BrokenPictures::Skip.judge::<Image>(Err(refused(ErrorKind::Other)));
        assert!(matches!(error, Err(DataError::Io { .. })));
    }

    #[test]
    fn readable_pictures_keep_what_belongs_to_them() {
        let pictures = [
            (Ok(picture()), 'a'),
            (Err(no_picture()), 'b'),
            (Ok(picture()), 'c'),
        ];
        let (images, belongings) = readable("x", pictures).unwrap();
        assert_eq!((images.len(), belongings), (2, vec!['a', 'c']));
        let none = readable("x", [(Err(no_picture()), ())])
            .unwrap_err()
            .to_string();
        assert_eq!(
            none,
            "data set x: expected pictures that can be read, found none among 1"
        );
    }

    #[test]
    fn a_class_may_lack_pictures_but_not_lose_all() {
        let classes = ["ant", "bee", "cat"].map(String::from);
        require_every_class("x", &[0, 0, 2], &[0, 2], &classes).unwrap();
        let error = require_every_class("x", &[0, 2, 2], &[0], &classes).unwrap_err();
        assert_eq!(
            error.to_string(),
            "data set x: class \"cat\" has no picture left: expected one that can be read, found 2 that cannot"
        );
    }
}
