//! Surveys shards before training: broken images, channel sums for normalization, content hash.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::dataset::part::Part;
use crate::error::Result;
use crate::formats::broken_images::BrokenImages;
use crate::formats::shards::dataset::{Encoded, ShardedDataset};
use crate::hex::hex;
use crate::progress::{ProgressCallback, Work};
use crate::transforms::normalize::ChannelSums;

/// The number of images in memory at a time.
const AT_ONCE: usize = 64;

/// The findings on a part of the images, or on all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    /// The hash of each shard, by its index.
    hashes: BTreeMap<usize, String>,
    /// The positions of broken images, ascending.
    broken: Vec<usize>,
    sums: ChannelSums,
    bytes: u64,
    largest: u64,
}

impl Survey {
    /// Reads and decodes the images of a part of the shards; [`Survey::join`] merges the results of
    /// several parts.
    ///
    /// # Errors
    /// When a shard cannot be read, and for the first broken image if those are refused.
    pub fn of(
        dataset: &ShardedDataset,
        part: Part,
        broken: BrokenImages,
        watcher: &ProgressCallback,
    ) -> Result<Self> {
        let shards = dataset.by_shard();
        let numbers = part.range(shards.len());
        let mine = shards[numbers.clone()].iter().map(ExactSizeIterator::len);
        let seen = watcher.counter(Work::Decode, mine.sum());
        let mut survey = Self::default();
        for number in numbers {
            let mut hash = Sha256::new();
            let indices: Vec<usize> = shards[number].clone().collect();
            for indices in indices.chunks(AT_ONCE) {
                let encoded = dataset.read(indices)?;
                for image in &encoded {
                    hash.update(image.label.to_le_bytes());
                    hash.update((image.bytes().len() as u64).to_le_bytes());
                    hash.update(image.bytes());
                }
                let sums = encoded.par_iter().map(|image| {
                    let sums = broken.apply(dataset.decode(image));
                    seen.one_more();
                    Ok(sums?.map(|image| ChannelSums::of_one(&image)))
                });
                for (image, sums) in encoded.iter().zip(sums.collect::<Result<Vec<_>>>()?) {
                    survey.add(dataset, image, sums);
                }
            }
            survey.hashes.insert(number, hex(&hash.finalize()));
        }
        Ok(survey)
    }

    fn add(&mut self, dataset: &ShardedDataset, image: &Encoded, sums: Result<ChannelSums>) {
        let bytes = image.bytes().len() as u64;
        self.bytes += bytes;
        self.largest = self.largest.max(bytes);
        match sums {
            Ok(sums) => self.sums = self.sums.plus(sums),
            Err(error) => {
                tracing::warn!("{error}; skipped");
                self.broken.push(dataset.position(image.index));
            }
        }
    }

    /// Merges the findings on another part.
    pub fn join(&mut self, other: Self) {
        self.hashes.extend(other.hashes);
        self.broken.extend(other.broken);
        self.broken.sort_unstable();
        self.sums = self.sums.plus(other.sums);
        self.bytes += other.bytes;
        self.largest = self.largest.max(other.largest);
    }

    /// Returns the channel sums for mean and variance.
    pub fn sums(&self) -> &ChannelSums {
        &self.sums
    }

    /// Returns the total size of the encoded images and that of the largest, in bytes.
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes, self.largest)
    }

    fn sha256(&self, classes: &[String]) -> String {
        let mut hash = Sha256::new();
        for text in classes.iter().chain(self.hashes.values()) {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        hex(&hash.finalize())
    }
}

impl ShardedDataset {
    /// Removes the images that a survey of this set has found broken.
    ///
    /// # Errors
    /// [`DataError::UnreadableClass`](crate::DataError::UnreadableClass) when a class has lost all
    /// images, [`DataError::Inconsistent`](crate::DataError::Inconsistent) when nothing is left.
    pub fn surveyed(self, survey: &Survey) -> Result<Self> {
        let all = self.len() as u64;
        let readable = self.without(&survey.broken)?;
        let sha256 = survey.sha256(readable.classes());
        let (bytes, largest) = survey.bytes();
        Ok(readable.with_content(sha256, (bytes / all, largest)))
    }
}
