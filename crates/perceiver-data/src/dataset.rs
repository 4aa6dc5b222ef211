//! A labelled set of pictures in memory: what every source is read into and every loader reads from.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::class_names::{ClassMap, require_few_enough};
use crate::error::{DataError, Result};
use crate::hex::hex;
use crate::image::Image;

/// Which part of a data set: the one to learn from, or the one to be judged by, once, at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// The training part; validation is cut from its tail.
    Train,
    /// The test part.
    Test,
    /// The part to choose by, where the data set has one of its own; empty where it has none, and where it is judged by that for
    /// want of a test part.
    Validation,
}

/// What images a model is judged by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TestSplit {
    /// The data set's own test split.
    #[default]
    Own,
    /// Its validation split, as it has no test split.
    Validation,
    /// A part that was drawn by a seed and kept from training, as it has no splits.
    HeldOut,
    /// All images of a data set without splits.
    Whole,
}

/// Coarse groups of classes, such as CIFAR-100's 20 superclasses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// Name of every group.
    pub names: Vec<String>,
    /// The group that each class belongs to, an index into `names`.
    pub of_class: Vec<u32>,
}

/// Pictures with a class each.
#[derive(Clone, Debug)]
pub struct Dataset {
    name: String,
    images: Vec<Image>,
    labels: Vec<u32>,
    classes: Vec<String>,
    groups: Option<Groups>,
    test_split: TestSplit,
    /// The images that those of a held-out part were drawn from; 0 where that is not told.
    of: usize,
    image_names: Option<Vec<String>>,
}

impl Dataset {
    /// A data set called `name` whose i-th picture has class `classes[labels[i]]`.
    ///
    /// # Errors
    /// When the number of labels is not that of the pictures, a label names no class, or there are more than
    /// [`MAX_CLASSES`](crate::MAX_CLASSES).
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
                expected: format!("{} labels, one a picture", images.len()),
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

    /// The same data set, whose images are `kind` of a test split, of `of` images in all.
    #[must_use]
    pub(crate) fn with_test_split(mut self, kind: TestSplit, of: usize) -> Self {
        (self.test_split, self.of) = (kind, of);
        self
    }

    /// What kind of a test split these are, and, where a seed has drawn it, of how many images; [`TestSplit::Own`] of those that
    /// are none.
    pub fn test_split(&self) -> (TestSplit, Option<usize>) {
        (self.test_split, Some(self.of).filter(|&of| of > 0))
    }

    /// The same data set by another list of classes, such as a model's: its labels are matched by name. Groups stay where every class of
    /// the list has one.
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
            let group = |place: &Option<u32>| groups.of_class.get((*place)? as usize).copied();
            let of_class: Option<Vec<u32>> = own.places().iter().map(group).collect();
            Some(Groups {
                of_class: of_class?,
                names: groups.names,
            })
        });
        self.classes = classes.to_vec();
        Ok(self)
    }

    /// The same data set with coarse groups of its classes.
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

    /// All images of a data set without splits, whose parts these are.
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

    /// The same data set with a name for each image, by which people find it: its path in the data folder, or its file and place there.
    ///
    /// # Errors
    /// When the number of names is not that of the images.
    pub fn with_image_names(mut self, names: Vec<String>) -> Result<Self> {
        if names.len() != self.len() {
            return Err(DataError::Inconsistent {
                name: self.name,
                expected: format!("{} names, one an image", self.images.len()),
                found: format!("{} names", names.len()),
            });
        }
        self.image_names = Some(names);
        Ok(self)
    }

    /// What the data set is called, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of pictures.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// All pictures, in order.
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// The class index of every picture, in order.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Class names; a label indexes them.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The coarse groups of the classes, where the data set has them.
    pub fn groups(&self) -> Option<&Groups> {
        self.groups.as_ref()
    }

    /// The name of every image, in order, where the data set has them.
    pub fn image_names(&self) -> Option<&[String]> {
        self.image_names.as_deref()
    }

    /// Keeps the first `len` pictures.
    pub fn truncate(&mut self, len: usize) {
        self.images.truncate(len);
        self.labels.truncate(len);
        if let Some(names) = &mut self.image_names {
            names.truncate(len);
        }
    }

    /// Cuts the last `fraction` off as a second data set: Keras's `validation_split`, which takes the tail of
    /// the arrays before any shuffling, `floor(len * (1 - fraction))` pictures staying in the first.
    pub fn split_tail(mut self, fraction: f64) -> (Self, Self) {
        let keep = (self.len() as f64 * (1.0 - fraction)).floor() as usize;
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

    /// The same pictures in an order that `key` draws.
    #[cfg(feature = "hub")]
    pub(crate) fn shuffled(mut self, key: perceiver_ops::Key) -> Self {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_key(|&at| key.bits(at as u64));
        self.images = in_order(self.images, &order);
        self.labels = in_order(self.labels, &order);
        self.image_names = self.image_names.map(|names| in_order(names, &order));
        self
    }

    /// SHA-256, in hexadecimal, of class names, sizes, pixels and labels in order: equal for equal data, and
    /// for nothing else.
    pub fn sha256(&self) -> String {
        self.sha256_of_first(self.len())
    }

    /// [`Dataset::sha256`] of the first `len` pictures.
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

/// These values in an order that names each of them once.
#[cfg(feature = "hub")]
fn in_order<T>(values: Vec<T>, order: &[usize]) -> Vec<T> {
    let mut values: Vec<Option<T>> = values.into_iter().map(Some).collect();
    let taken = order.iter().map(|&at| values[at].take());
    taken.flatten().collect()
}
