//! A labelled set of pictures in memory: what every source is read into and every loader reads from.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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
}

impl Dataset {
    /// A data set called `name` whose i-th picture has class `classes[labels[i]]`.
    ///
    /// # Errors
    /// When the number of labels is not that of the pictures, or a label names no class.
    pub fn new(
        name: impl Into<String>,
        images: Vec<Image>,
        labels: Vec<u32>,
        classes: Vec<String>,
    ) -> Result<Self> {
        let name = name.into();
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
        })
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

    /// Keeps the first `len` pictures.
    pub fn truncate(&mut self, len: usize) {
        self.images.truncate(len);
        self.labels.truncate(len);
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
        };
        (self, tail)
    }

    /// The same pictures in an order that `key` draws.
    #[cfg(feature = "hub")]
    pub(crate) fn shuffled(mut self, key: perceiver_ops::Key) -> Self {
        let labels = self.labels.iter().copied();
        let mut pairs: Vec<(u64, Image, u32)> = (0..)
            .zip(self.images.into_iter().zip(labels))
            .map(|(at, (image, label))| (key.bits(at), image, label))
            .collect();
        pairs.sort_by_key(|&(place, ..)| place);
        (self.images, self.labels) = pairs
            .into_iter()
            .map(|(_, image, label)| (image, label))
            .unzip();
        self
    }

    /// SHA-256, in hexadecimal, of class names, sizes, pixels and labels in order: equal for equal data, and
    /// for nothing else.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        let length = |n: usize| (n as u64).to_le_bytes();
        hash.update(length(self.classes.len()));
        for class in &self.classes {
            hash.update(length(class.len()));
            hash.update(class);
        }
        for (image, label) in self.images.iter().zip(&self.labels) {
            hash.update(length(image.height()));
            hash.update(length(image.width()));
            hash.update(image.pixels());
            hash.update(label.to_le_bytes());
        }
        hex(&hash.finalize())
    }
}
