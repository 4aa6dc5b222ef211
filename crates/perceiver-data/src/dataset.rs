//! A labelled image data set in memory.

#[cfg(feature = "candle-datasets")]
pub mod candle;
pub(crate) mod class_names;
pub(crate) mod image;
pub(crate) mod image_names;
pub(crate) mod labels;
pub(crate) mod part;
pub(crate) mod splits;
pub(crate) mod stratified_split;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::dataset::class_names::{ClassMap, require_few_enough};
use crate::dataset::image::Image;
use crate::dataset::stratified_split::stratified_split;
use crate::error::{DataError, Result};
use crate::hex::hex;

/// A part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// The training split; without a validation split, validation images are a part of it.
    Train,
    /// The test split, evaluated once, at the end.
    Test,
    /// The validation split that the data set comes with. Empty if it has none, or if it stands in
    /// for a missing test split.
    Validation,
}

/// The origin of the test images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TestSplit {
    /// The data set's own test split.
    #[default]
    Own,
    /// The data set's validation split, as it has no test split.
    Validation,
    /// A held-out part, drawn by a seed, of a data set without splits.
    HeldOut,
    /// All images of a data set without splits.
    Whole,
}

/// Coarse groups of classes, such as CIFAR-100's 20 superclasses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// Names of the groups.
    pub names: Vec<String>,
    /// The group of each class, an index into `names`.
    pub of_class: Vec<u32>,
}

/// Labelled images in memory.
#[derive(Clone, Debug)]
pub struct Dataset {
    name: String,
    images: Vec<Image>,
    labels: Vec<u32>,
    classes: Vec<String>,
    groups: Option<Groups>,
    test_split: TestSplit,
    /// The number of images that a held-out part was drawn from; 0 if unknown.
    of: usize,
    image_names: Option<Vec<String>>,
}

impl Dataset {
    /// Creates a data set called `name` in which image `i` has class `classes[labels[i]]`.
    ///
    /// # Errors
    /// When there are not as many labels as images, a label names no class, or there are more than
    /// [`MAX_CLASSES`](crate::MAX_CLASSES) classes.
    pub fn new(
        name: impl Into<String>,
        images: Vec<Image>,
        labels: Vec<u32>,
        classes: Vec<String>,
    ) -> Result<Self> {
        let name = name.into();
        require_few_enough(Path::new(&name), classes.len())?;
        if images.len() != labels.len() {
            return Err(DataError::Inconsistent {
                name,
                expected: format!("{} labels, one per image", images.len()),
                found: format!("{} labels", labels.len()),
            });
        }
        if let Some(record) = labels.iter().position(|&l| l as usize >= classes.len()) {
            return Err(DataError::LabelOutOfRange {
                path: PathBuf::from(name),
                record,
                label: i64::from(labels[record]),
                classes: classes.len(),
            });
        }
        Ok(Self {
            name,
            images,
            labels,
            classes,
            groups: None,
            test_split: TestSplit::Own,
            of: 0,
            image_names: None,
        })
    }

    /// Marks the images as a test split of this `kind`, drawn from `of` images.
    #[must_use]
    pub(crate) fn with_test_split(mut self, kind: TestSplit, of: usize) -> Self {
        (self.test_split, self.of) = (kind, of);
        self
    }

    /// Returns the kind of test split, and the number of images it was drawn from, if a seed has
    /// drawn it. The kind is [`TestSplit::Own`] for other splits.
    pub fn test_split(&self) -> (TestSplit, Option<usize>) {
        (self.test_split, Some(self.of).filter(|&of| of > 0))
    }

    /// Relabels the data set for another list of classes, such as a model's, by name. Groups stay
    /// if the list has every class.
    ///
    /// # Errors
    /// [`DataError::OtherClasses`] for images of a class that is not among `classes`.
    pub fn with_classes(mut self, classes: &[String]) -> Result<Self> {
        if self.classes == classes {
            return Ok(self);
        }
        ClassMap::new(&self.classes, classes).apply(&self.name, &mut self.labels)?;
        self.groups = self.groups.and_then(|groups| {
            let own = ClassMap::new(classes, &self.classes);
            let group = |index: &Option<u32>| groups.of_class.get((*index)? as usize).copied();
            let of_class: Option<Vec<u32>> = own.indices().iter().map(group).collect();
            Some(Groups {
                of_class: of_class?,
                names: groups.names,
            })
        });
        self.classes = classes.to_vec();
        Ok(self)
    }

    /// Attaches coarse groups of the classes.
    ///
    /// # Errors
    /// When `groups` does not give every class an existing group.
    pub fn with_groups(mut self, groups: Groups) -> Result<Self> {
        let fits = groups.of_class.len() == self.classes.len()
            && groups
                .of_class
                .iter()
                .all(|&group| (group as usize) < groups.names.len());
        if !fits {
            return Err(DataError::Inconsistent {
                name: self.name,
                expected: format!(
                    "one existing group for each of {} classes",
                    self.classes.len()
                ),
                found: format!("groups {:?} of {}", groups.of_class, groups.names.len()),
            });
        }
        self.groups = Some(groups);
        Ok(self)
    }

    /// Joins two parts of a data set without splits and marks the result as [`TestSplit::Whole`].
    #[must_use]
    pub fn whole(mut self, other: Self) -> Self {
        self.images.extend(other.images);
        self.labels.extend(other.labels);
        self.image_names = self
            .image_names
            .zip(other.image_names)
            .map(|(mut names, others)| {
                names.extend(others);
                names
            });
        let of = self.len();
        self.with_test_split(TestSplit::Whole, of)
    }

    /// Attaches a display name to each image: its path in the data folder, or its shard and key
    /// there.
    ///
    /// # Errors
    /// When the number of names is not that of the images.
    pub fn with_image_names(mut self, names: Vec<String>) -> Result<Self> {
        if names.len() != self.len() {
            return Err(DataError::Inconsistent {
                name: self.name,
                expected: format!("{} names, one per image", self.images.len()),
                found: format!("{} names", names.len()),
            });
        }
        self.image_names = Some(names);
        Ok(self)
    }

    /// Returns the display name of the data set.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Returns the images, in order.
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// Returns the class index of every image, in order.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Returns the class names, indexed by label.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Returns the coarse groups of the classes, if there are any.
    pub fn groups(&self) -> Option<&Groups> {
        self.groups.as_ref()
    }

    /// Returns the names of the images, in order, if they have any.
    pub fn image_names(&self) -> Option<&[String]> {
        self.image_names.as_deref()
    }

    /// Keeps the first `len` images.
    pub fn truncate(&mut self, len: usize) {
        self.images.truncate(len);
        self.labels.truncate(len);
        if let Some(names) = &mut self.image_names {
            names.truncate(len);
        }
    }

    /// Splits off the last `fraction` as a second data set: Keras's `validation_split`, which takes
    /// the tail of the arrays before shuffling. `floor(len * (1 - fraction))` images stay in the
    /// first.
    pub fn split_tail(self, fraction: f64) -> (Self, Self) {
        let keep = (self.len() as f64 * (1.0 - fraction)).floor() as usize;
        self.split_at(keep)
    }

    fn split_at(mut self, keep: usize) -> (Self, Self) {
        let tail = Self {
            name: self.name.clone(),
            images: self.images.split_off(keep),
            labels: self.labels.split_off(keep),
            classes: self.classes.clone(),
            groups: self.groups.clone(),
            test_split: self.test_split,
            of: self.of,
            image_names: self.image_names.as_mut().map(|names| names.split_off(keep)),
        };
        (self, tail)
    }

    /// Draws `fraction` of the images of every class as a second data set: scikit-learn's
    /// `train_test_split` with `stratify`. The numbers are rounded, but if a class has two images,
    /// either part has one. Both parts keep the order of the images.
    pub fn split_stratified(self, fraction: f64, seed: u64) -> (Self, Self) {
        let [rest, drawn] = stratified_split(&self.labels, fraction, seed);
        let count = rest.len();
        let order: Vec<usize> = rest.into_iter().chain(drawn).collect();
        self.in_order(&order).split_at(count)
    }

    /// Permutes the images in an order drawn by `key`.
    #[cfg(feature = "hub")]
    pub(crate) fn shuffled(self, key: perceiver_ops::RngKey) -> Self {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_key(|&at| key.bits(at as u64));
        self.in_order(&order)
    }

    fn in_order(mut self, order: &[usize]) -> Self {
        self.images = in_order(self.images, order);
        self.labels = in_order(self.labels, order);
        self.image_names = self.image_names.map(|names| in_order(names, order));
        self
    }

    /// Returns the SHA-256, in hexadecimal, of class names, sizes, pixels and labels in order:
    /// equal for equal data only.
    pub fn sha256(&self) -> String {
        self.sha256_of_first(self.len())
    }

    /// Returns [`Dataset::sha256`] of the first `len` images.
    pub fn sha256_of_first(&self, len: usize) -> String {
        let mut hash = Sha256::new();
        let length = |n: usize| (n as u64).to_le_bytes();
        hash.update(length(self.classes.len()));
        for class in &self.classes {
            hash.update(length(class.len()));
            hash.update(class);
        }
        for (image, label) in self.images.iter().zip(&self.labels).take(len) {
            hash.update(length(image.height()));
            hash.update(length(image.width()));
            hash.update(image.pixels());
            hash.update(label.to_le_bytes());
        }
        hex(&hash.finalize())
    }
}

/// Reorders values by a permutation of their indices.
fn in_order<T>(values: Vec<T>, order: &[usize]) -> Vec<T> {
    let mut values: Vec<Option<T>> = values.into_iter().map(Some).collect();
    let taken = order.iter().map(|&at| values[at].take());
    taken.flatten().collect()
}
