//! Labelled images: in memory, in shards, or read by index.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use crate::dataset::image::Image;
use crate::dataset::{Dataset, Groups, TestSplit};
use crate::error::Result;
use crate::formats::shards::ShardedDataset;
use crate::progress::{ProgressCallback, Work};
use crate::source::map_dataset::{MapDataset, MappedSamples};
use crate::transforms::normalize::ChannelSums;

/// Labelled images for training or evaluation. A clone shares them.
#[derive(Clone, Debug)]
pub enum Samples {
    /// Decoded images in memory.
    InMemory(Arc<Dataset>),
    /// Images in shards, read on demand.
    Sharded(Arc<ShardedDataset>),
    /// Images of a [`MapDataset`], read on demand.
    Mapped(MappedSamples),
}

impl Samples {
    /// Creates the samples of a map-style data set.
    ///
    /// # Errors
    /// When a label names no class, or there are more than [`MAX_CLASSES`](crate::MAX_CLASSES)
    /// classes.
    pub fn map(dataset: impl MapDataset + 'static) -> Result<Self> {
        MappedSamples::new(Arc::new(dataset)).map(Self::Mapped)
    }

    /// Returns the display name of the data set.
    pub fn name(&self) -> &str {
        match self {
            Self::InMemory(data) => data.name(),
            Self::Sharded(data) => data.name(),
            Self::Mapped(data) => data.name(),
        }
    }

    /// Returns the number of images.
    pub fn len(&self) -> usize {
        match self {
            Self::InMemory(data) => data.len(),
            Self::Sharded(data) => data.len(),
            Self::Mapped(data) => data.len(),
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
            Self::Mapped(data) => data.classes(),
        }
    }

    /// Returns the class index of an image.
    pub fn label(&self, index: usize) -> u32 {
        match self {
            Self::InMemory(data) => data.labels()[index],
            Self::Sharded(data) => data.label(index),
            Self::Mapped(data) => data.label(index),
        }
    }

    /// Returns the number of images of each class.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes().len()];
        for index in 0..self.len() {
            counts[self.label(index) as usize] += 1;
        }
        counts
    }

    /// Keeps the first `len` images.
    #[must_use]
    pub fn truncated(self, len: usize) -> Self {
        match self {
            Self::InMemory(data) => {
                let mut data = Arc::unwrap_or_clone(data);
                data.truncate(len);
                data.into()
            }
            Self::Sharded(data) => {
                let mut data = Arc::unwrap_or_clone(data);
                data.truncate(len);
                data.into()
            }
            Self::Mapped(data) => Self::Mapped(data.truncated(len)),
        }
    }

    /// Splits off the last `fraction`; see [`Dataset::split_tail`]. Of shards, which may be sorted
    /// by class, the second part is drawn by [`ShardedDataset::split_drawn`] with seed 0.
    pub fn split_tail(self, fraction: f64) -> (Self, Self) {
        match self {
            Self::InMemory(data) => both(Arc::unwrap_or_clone(data).split_tail(fraction)),
            Self::Sharded(_) => self.split_stratified(fraction, 0),
            Self::Mapped(data) => {
                let (rest, tail) = data.split_tail(fraction);
                (Self::Mapped(rest), Self::Mapped(tail))
            }
        }
    }

    /// Draws a share of every class as a second part; see [`Dataset::split_stratified`], and for
    /// shards [`ShardedDataset::split_drawn`].
    pub fn split_stratified(self, fraction: f64, seed: u64) -> (Self, Self) {
        match self {
            Self::InMemory(data) => {
                both(Arc::unwrap_or_clone(data).split_stratified(fraction, seed))
            }
            Self::Sharded(data) => both(Arc::unwrap_or_clone(data).split_drawn(fraction, seed)),
            Self::Mapped(data) => {
                let (rest, drawn) = data.split_stratified(fraction, seed);
                (Self::Mapped(rest), Self::Mapped(drawn))
            }
        }
    }

    /// Sums up the pixels of a range of the images; `watcher` receives the progress.
    ///
    /// # Errors
    /// When an image cannot be read.
    pub fn channel_sums(
        &self,
        range: Range<usize>,
        watcher: &ProgressCallback,
    ) -> Result<ChannelSums> {
        if let Self::InMemory(data) = self {
            return Ok(ChannelSums::of(&data.images()[range], watcher));
        }
        let seen = watcher.counter(Work::Adapt, range.len());
        range
            .into_par_iter()
            .map(|index| {
                let sums = ChannelSums::of_one(&self.image(index)?);
                seen.one_more();
                Ok(sums)
            })
            .try_reduce(ChannelSums::default, |a, b| Ok(a.plus(b)))
    }

    /// Returns the coarse groups of the classes, if there are any.
    pub fn groups(&self) -> Option<&Groups> {
        match self {
            Self::InMemory(data) => data.groups(),
            Self::Sharded(_) | Self::Mapped(_) => None,
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
            Self::Mapped(_) => Ok(None),
        }
    }

    /// Returns a hash that is equal for equal data only: [`Dataset::sha256`] or
    /// [`ShardedDataset::sha256`], which differ, or [`MappedSamples::sha256`].
    pub fn sha256(&self) -> String {
        match self {
            Self::InMemory(data) => data.sha256(),
            Self::Sharded(data) => data.sha256().to_owned(),
            Self::Mapped(data) => data.sha256(),
        }
    }

    /// Returns the kind of test split, and the number of images it was drawn from, if a seed has
    /// drawn it; see [`Dataset::test_split`].
    pub fn test_split(&self) -> (TestSplit, Option<usize>) {
        match self {
            Self::InMemory(data) => data.test_split(),
            Self::Sharded(data) => (data.test_split(), None),
            Self::Mapped(_) => (TestSplit::Own, None),
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
            Self::Mapped(data) => data.image(index),
        }
    }
}

fn both<T: Into<Samples>>((first, second): (T, T)) -> (Samples, Samples) {
    (first.into(), second.into())
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
