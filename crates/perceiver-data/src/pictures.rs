//! Labelled pictures, wherever they are.

use std::sync::Arc;

use crate::dataset::{Dataset, Groups, TestSplit};
use crate::error::Result;
use crate::image::Image;
use crate::shards::Streamed;

/// Pictures to learn from or to be judged by. A clone shares them.
#[derive(Clone, Debug)]
pub enum Pictures {
    /// All decoded, in memory.
    InMemory(Arc<Dataset>),
    /// In shards, of which what is needed is read.
    Streamed(Arc<Streamed>),
}

impl Pictures {
    /// What the data set is called, for people.
    pub fn name(&self) -> &str {
        match self {
            Self::InMemory(data) => data.name(),
            Self::Streamed(data) => data.name(),
        }
    }

    /// The number of pictures.
    pub fn len(&self) -> usize {
        match self {
            Self::InMemory(data) => data.len(),
            Self::Streamed(data) => data.len(),
        }
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Class names; a label indexes them.
    pub fn classes(&self) -> &[String] {
        match self {
            Self::InMemory(data) => data.classes(),
            Self::Streamed(data) => data.classes(),
        }
    }

    /// The number of images of every class.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes().len()];
        let label = |index| match self {
            Self::InMemory(data) => data.labels()[index],
            Self::Streamed(data) => data.label(index),
        };
        for index in 0..self.len() {
            counts[label(index) as usize] += 1;
        }
        counts
    }

    /// The coarse groups of the classes, where the data set has them.
    pub fn groups(&self) -> Option<&Groups> {
        match self {
            Self::InMemory(data) => data.groups(),
            Self::Streamed(_) => None,
        }
    }

    /// The name of every image, in order, where the data set has them; those in shards are looked up in the files.
    ///
    /// # Errors
    /// When a shard cannot be read.
    pub fn image_names(&self) -> Result<Option<Vec<String>>> {
        match self {
            Self::InMemory(data) => Ok(data.image_names().map(<[String]>::to_vec)),
            Self::Streamed(data) => data.image_names().map(Some),
        }
    }

    /// What equal data have in common, and nothing else: [`Dataset::sha256`] or [`Streamed::sha256`], which differ.
    pub fn sha256(&self) -> String {
        match self {
            Self::InMemory(data) => data.sha256(),
            Self::Streamed(data) => data.sha256().to_owned(),
        }
    }

    /// What kind of a test split these are, and, where a seed has drawn it, of how many images; see [`Dataset::test_split`].
    pub fn test_split(&self) -> (TestSplit, Option<usize>) {
        match self {
            Self::InMemory(data) => data.test_split(),
            Self::Streamed(data) => (data.test_split(), None),
        }
    }

    /// A picture, read where it is not in memory.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn image(&self, index: usize) -> Result<Image> {
        match self {
            Self::InMemory(data) => Ok(data.images()[index].clone()),
            Self::Streamed(data) => data.image(index),
        }
    }
}

impl From<Dataset> for Pictures {
    fn from(data: Dataset) -> Self {
        Self::InMemory(Arc::new(data))
    }
}

impl From<Arc<Dataset>> for Pictures {
    fn from(data: Arc<Dataset>) -> Self {
        Self::InMemory(data)
    }
}

impl From<Streamed> for Pictures {
    fn from(data: Streamed) -> Self {
        Self::Streamed(Arc::new(data))
    }
}
