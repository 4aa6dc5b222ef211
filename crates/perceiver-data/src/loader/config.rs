//! Options of the data loader.

use crate::dataset::part::Part;
use crate::error::{DataError, Result};
use crate::transforms::augment::Augmentation;

/// Options of a [`Loader`](crate::Loader).
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderConfig {
    /// The number of images per batch; the last batch of an epoch may have fewer. 64 by default.
    pub batch_size: usize,
    /// The seed of shuffling and augmentation. 0 by default.
    pub seed: u64,
    /// Whether to shuffle in every epoch; otherwise the order is that of the data set. Off by
    /// default.
    pub shuffle: bool,
    /// Whether to balance the classes of an epoch. It has as many samples as otherwise, but every
    /// class that occurs is equally frequent, up to one: images of rare classes are repeated, each
    /// after all others of its class, and of frequent ones another random part is used in each
    /// epoch. The order is random whether or not `shuffle` is set. Not for shards, which are read in
    /// their own order. Off by default.
    pub balanced: bool,
    /// The size of the shuffle buffer for shards: the number of encoded images in memory, over all
    /// parts together. 4096 by default.
    pub shuffle_buffer: usize,
    /// The part of every batch to build. The whole batch by default.
    pub part: Part,
    /// Random augmentation. None by default.
    pub augmentation: Option<Augmentation>,
    /// The number of finished batches that may wait. 2 by default.
    pub prefetch: usize,
    /// The number of threads that build a batch. By default rayon's choice: `RAYON_NUM_THREADS`, or
    /// the number of cores.
    pub threads: Option<usize>,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            batch_size: 64,
            seed: 0,
            shuffle: false,
            balanced: false,
            shuffle_buffer: 4096,
            part: Part::WHOLE,
            augmentation: None,
            prefetch: 2,
            threads: None,
        }
    }
}

impl LoaderConfig {
    pub(super) fn validate(&self) -> Result<()> {
        let positive = |option, value| match value {
            0 => Err(DataError::InvalidOption {
                option,
                expected: "at least 1".to_owned(),
                found: "0".to_owned(),
            }),
            _ => Ok(()),
        };
        positive("batch_size", self.batch_size)?;
        positive("part.of", self.part.of)?;
        positive("threads", self.threads.unwrap_or(1))?;
        self.augmentation
            .as_ref()
            .map_or(Ok(()), Augmentation::validate)
    }

    /// Returns an error if the classes of shards are to be balanced.
    pub(super) fn require_shard_order(&self, name: &str) -> Result<()> {
        if !self.balanced {
            return Ok(());
        }
        Err(DataError::InvalidOption {
            option: "balanced",
            expected: format!(
                "false for {name}, whose images are streamed from shards in the order of the \
                 shards; class weights work with them"
            ),
            found: "true".to_owned(),
        })
    }
}
