//! The `shapes` data set: generated images of 20 shapes, for training without downloads.
//!
//! There are 20 shapes in five groups, as CIFAR-100 has classes in superclasses, on 32 x 32 colour
//! images. Position, size, tilt, mirroring, colours, background clutter and noise are random and
//! independent of the class. A figure is lighter than its background as often as it is darker, so
//! no weighted sum of pixels separates the classes.
//!
//! The images are identical on every machine and for every number of threads: each is a function of
//! its split and index, computed with IEEE additions, multiplications, divisions and square roots
//! only.
//!
//! ```
//! use perceiver_data::{Labels, Split, shapes};
//!
//! let test = shapes(Split::Test, Labels::Fine)?;
//! assert_eq!(test.len(), 2_000);
//! assert_eq!(test.classes()[0], "disc");
//! # Ok::<(), perceiver_data::DataError>(())
//! ```

mod background;
mod colour;
mod figure;
mod random;
mod scene;

use perceiver_ops::RngKey;
use rayon::prelude::*;

use crate::dataset::image::Image;
use crate::dataset::labels::Labels;
use crate::dataset::{Dataset, Groups, Split};
use crate::error::Result;
use figure::Figure;

/// Height and width of the images.
const SIZE: usize = 32;
/// The number of training images, 500 per class.
const TRAIN_LEN: usize = 10_000;
/// The number of test images, 100 per class.
const TEST_LEN: usize = 2_000;
/// The random seed of the images. Another seed gives another data set.
const SEED: u64 = 0x5ba9_e500;

/// The groups with their classes: name and outline. Classes are numbered in this order.
#[rustfmt::skip]
const GROUPS: [(&str, [(&str, Figure); 4]); 5] = [
    ("round", [
        ("disc", figure::disc),
        ("ring", figure::ring),
        ("crescent", figure::crescent),
        ("oval", figure::oval),
    ]),
    ("polygon", [
        ("triangle", figure::triangle),
        ("square", figure::square),
        ("diamond", figure::diamond),
        ("star", figure::star),
    ]),
    ("sign", [
        ("plus", figure::plus),
        ("cross", figure::cross),
        ("arrow", figure::arrow),
        ("chevron", figure::chevron),
    ]),
    ("pattern", [
        ("stripes", figure::stripes),
        ("checkerboard", figure::checkerboard),
        ("dots", figure::dots),
        ("target", figure::target),
    ]),
    ("object", [
        ("heart", figure::heart),
        ("house", figure::house),
        ("tree", figure::tree),
        ("fish", figure::fish),
    ]),
];

/// Returns the number of images in a split.
pub(crate) const fn count(split: Split) -> usize {
    match split {
        Split::Train => TRAIN_LEN,
        Split::Test => TEST_LEN,
        Split::Validation => 0,
    }
}

/// Returns the number of classes, or of groups for coarse labels.
pub(crate) fn class_count(labels: Labels) -> usize {
    match labels {
        Labels::Fine => each_class().count(),
        Labels::Coarse => GROUPS.len(),
    }
}

/// Generates a split of the embedded data set: 10,000 training or 2,000 test images of 32 x 32
/// pixels. Classes alternate, so any run of consecutive images is as balanced as its length allows.
///
/// With [`Labels::Fine`] there are 20 classes and their 5 groups; with [`Labels::Coarse`] the
/// groups are the classes.
pub fn shapes(split: Split, labels: Labels) -> Result<Dataset> {
    first_shapes(split, labels, count(split))
}

/// Generates the first `limit` images of [`shapes()`].
pub(crate) fn first_shapes(split: Split, labels: Labels, limit: usize) -> Result<Dataset> {
    let len = limit.min(count(split));
    let name = match split {
        Split::Train => "train",
        Split::Test => "test",
        Split::Validation => "validation",
    };
    let figures: Vec<Figure> = each_class().map(|(_, _, figure)| figure).collect();
    let of_class: Vec<u32> = each_class().map(|(group, _, _)| group).collect();

    let key = RngKey::new(SEED).fold_in_name(name);
    let images = (0..len)
        .into_par_iter()
        .map(|index| scene::draw(figures[index % figures.len()], key.fold_in(index as u64)))
        .collect::<Result<Vec<Image>>>()?;

    let group_names: Vec<String> = GROUPS.iter().map(|(group, _)| (*group).into()).collect();
    let (mut of_images, classes) = split_labels(split, labels);
    of_images.truncate(len);
    let dataset = Dataset::new("shapes", images, of_images, classes)?;
    match labels {
        Labels::Fine => dataset.with_groups(Groups {
            names: group_names,
            of_class,
        }),
        Labels::Coarse => Ok(dataset),
    }
}

/// Returns the labels of a split and their classes, without generating images.
pub(crate) fn split_labels(split: Split, labels: Labels) -> (Vec<u32>, Vec<String>) {
    let of_class: Vec<u32> = each_class().map(|(group, _, _)| group).collect();
    let fine = (0..count(split)).map(|index| index % of_class.len());
    match labels {
        Labels::Fine => (
            fine.map(|class| class as u32).collect(),
            each_class().map(|(_, class, _)| class.into()).collect(),
        ),
        Labels::Coarse => (
            fine.map(|class| of_class[class]).collect(),
            GROUPS.iter().map(|(group, _)| (*group).into()).collect(),
        ),
    }
}

/// Iterates over group index, name and outline of every class, in label order.
fn each_class() -> impl Iterator<Item = (u32, &'static str, Figure)> {
    (0..).zip(&GROUPS).flat_map(|(group, (_, classes))| {
        classes
            .iter()
            .map(move |&(class, figure)| (group, class, figure))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn splits_are_balanced_and_of_the_documented_size() {
        for (split, per_class) in [(Split::Train, 500), (Split::Test, 100)] {
            let data = shapes(split, Labels::Fine).unwrap();
            let mut counts = vec![0; data.classes().len()];
            for &label in data.labels() {
                counts[label as usize] += 1;
            }
            assert_eq!(counts, vec![per_class; 20]);
            assert!(
                data.images()
                    .iter()
                    .all(|i| (i.height(), i.width()) == (32, 32))
            );
        }
    }

    #[test]
    fn coarse_labels_are_the_groups_of_the_fine_ones() {
        let fine = shapes(Split::Test, Labels::Fine).unwrap();
        let coarse = shapes(Split::Test, Labels::Coarse).unwrap();
        let groups = fine.groups().unwrap();
        let expected: Vec<u32> = fine
            .labels()
            .iter()
            .map(|&class| groups.of_class[class as usize])
            .collect();
        assert_eq!(coarse.labels(), expected);
        assert_eq!(coarse.classes(), groups.names);
        assert_eq!(coarse.images(), fine.images());
    }

    #[test]
    fn images_are_unique_across_the_splits() {
        let train = shapes(Split::Train, Labels::Fine).unwrap();
        let test = shapes(Split::Test, Labels::Fine).unwrap();
        let distinct: HashSet<&[u8]> = train
            .images()
            .iter()
            .chain(test.images())
            .map(Image::pixels)
            .collect();
        assert_eq!(distinct.len(), TRAIN_LEN + TEST_LEN);
    }

    #[test]
    fn images_are_the_same_on_every_platform() {
        // Results on this data set are comparable only while these hashes hold: another platform,
        // number of threads or dependency version must not change a pixel.
        let hash = |split| shapes(split, Labels::Fine).unwrap().sha256();
        assert_eq!(
            [hash(Split::Train), hash(Split::Test)],
            [
                "2806cca19367cf1561d49e510cc08c201fe12e27927cbee4888cff44d395214f",
                "be42fe270eeb64ac5ece2d7613d594d12f2d7ee64f493b79324d4b3b554133d3",
            ]
        );
    }
}
