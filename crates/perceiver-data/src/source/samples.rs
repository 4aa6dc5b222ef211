//! Labelled images, in memory or in shards.

use std::sync::Arc;

use crate::dataset::image::Image;
use crate::dataset::{Dataset, Groups, TestSplit};
use crate::error::Result;
use crate::formats::shards::ShardedDataset;

/// Labelled images for training or evaluation. A clone shares them.
#[derive(Clone, Debug)]
pub enum Samples {
    /// Decoded images in memory.
    InMemory(Arc<Dataset>),
    /// Images in shards, read on demand.
    Sharded(Arc<ShardedDataset>),
}

impl Samples {
    /// Returns the display name of the data set.
    pub fn name(&self) -> &str {
        match self {
            Self::InMemory(data) => data.name(),
            Self::Sharded(data) => data.name(),
        }
    }

    /// Returns the number of images.
    pub fn len(&self) -> usize {
        match self {
            Self::InMemory(data) => data.len(),
            Self::Sharded(data) => data.len(),
        }
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the class names, indexed by label.
    pub fn classes(&self) -> &[String] {
        match self {
            Self::InMemory(data) => data.classes(),
            Self::Sharded(data) => data.classes(),
        }
    }

    /// Returns the number of images of each class.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes().len()];
        let label = |index| match self {
            Self::InMemory(data) => data.labels()[index],
            Self::Sharded(data) => data.label(index),
        };
        for index in 0..self.len() {
            counts[label(index) as usize] += 1;
        }
        counts
    }

    /// Returns the coarse groups of the classes, if there are any.
    pub fn groups(&self) -> Option<&Groups> {
        match self {
            Self::InMemory(data) => data.groups(),
            Self::Sharded(_) => None,
        }
    }

    /// Returns the names of the images, in order, if they have any; names in shards are looked up
    /// in the files.
    ///
    /// # Errors
    /// When a shard cannot be read.
    pub fn image_names(&self) -> Result<Option<Vec<String>>> {
        match self {
            Self::InMemory(data) => Ok(data.image_names().map(<[String]>::to_vec)),
            Self::Sharded(data) => data.image_names().map(Some),
        }
    }

    /// Returns a hash that is equal for equal data only: [`Dataset::sha256`] or
    /// [`ShardedDataset::sha256`], which differ.
    pub fn sha256(&self) -> String {
        match self {
            Self::InMemory(data) => data.sha256(),
            Self::Sharded(data) => data.sha256().to_owned(),
        }
    }

    /// Returns the kind of test split, and the number of images it was drawn from, if a seed has
    /// drawn it; see [`Dataset::test_split`].
    pub fn test_split(&self) -> (TestSplit, Option<usize>) {
        match self {
            Self::InMemory(data) => data.test_split(),
            Self::Sharded(data) => (data.test_split(), None),
        }
    }

    /// Returns an image, read from its shard if it is not in memory.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn image(&self, index: usize) -> Result<Image> {
        match self {
            Self::InMemory(data) => Ok(data.images()[index].clone()),
            Self::Sharded(data) => data.image(index),
        }
    }
}

impl From<Dataset> for Samples {
    fn from(data: Dataset) -> Self {
        Self::InMemory(Arc::new(data))
    }
}

impl From<Arc<Dataset>> for Samples {
    fn from(data: Arc<Dataset>) -> Self {
        Self::InMemory(data)
    }
}

impl From<ShardedDataset> for Samples {
    fn from(data: ShardedDataset) -> Self {
        Self::Sharded(Arc::new(data))
    }
}
