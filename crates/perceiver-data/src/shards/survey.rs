//! One pass through all pictures of some shards, before anything is learned of them: which are broken, what they are normalized by, and
//! a hash to know them by.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::broken_pictures::BrokenPictures;
use crate::error::Result;
use crate::hex::hex;
use crate::loader::Part;
use crate::normalization::ChannelSums;
use crate::shards::streamed::{Encoded, Streamed};
use crate::watcher::{Watcher, Work};

/// Pictures that are in memory at a time.
const AT_ONCE: usize = 64;

/// What was found in a part of some pictures, or in all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    /// The hash of every shard, by its number.
    hashes: BTreeMap<usize, String>,
    /// The positions of broken pictures, which ascend.
    broken: Vec<usize>,
    sums: ChannelSums,
    bytes: u64,
    largest: u64,
}

impl Survey {
    /// Reads and decodes the pictures of a part of the shards; what several parts came to is put together by [`Survey::join`].
    ///
    /// # Errors
    /// When a shard cannot be read, and for the first broken picture where those are refused.
    pub fn of(
        pictures: &Streamed,
        part: Part,
        broken: BrokenPictures,
        watcher: &Watcher,
    ) -> Result<Self> {
        let shards = pictures.by_shard();
        let numbers = part.range(shards.len());
        let mine = shards[numbers.clone()].iter().map(ExactSizeIterator::len);
        let seen = watcher.counter(Work::Decode, mine.sum());
        let mut survey = Self::default();
        for number in numbers {
            let mut hash = Sha256::new();
            let indices: Vec<usize> = shards[number].clone().collect();
            for indices in indices.chunks(AT_ONCE) {
                let encoded = pictures.read(indices)?;
                for picture in &encoded {
                    hash.update(picture.label.to_le_bytes());
                    hash.update((picture.bytes().len() as u64).to_le_bytes());
                    hash.update(picture.bytes());
                }
                let sums = encoded.par_iter().map(|picture| {
                    let sums = broken.judge(pictures.decode(picture));
                    seen.one_more();
                    Ok(sums?.map(|image| ChannelSums::of_one(&image)))
                });
                for (picture, sums) in encoded.iter().zip(sums.collect::<Result<Vec<_>>>()?) {
                    survey.note(pictures, picture, sums);
                }
            }
            survey.hashes.insert(number, hex(&hash.finalize()));
        }
        Ok(survey)
    }

    fn note(&mut self, pictures: &Streamed, picture: &Encoded, sums: Result<ChannelSums>) {
        let bytes = picture.bytes().len() as u64;
        self.bytes += bytes;
        self.largest = self.largest.max(bytes);
        match sums {
            Ok(sums) => self.sums = self.sums.plus(sums),
            Err(error) => {
                tracing::warn!("{error}; skipped");
                self.broken.push(pictures.position(picture.index));
            }
        }
    }

    /// Adds what was found in another part.
    pub fn join(&mut self, other: Self) {
        self.hashes.extend(other.hashes);
        self.broken.extend(other.broken);
        self.broken.sort_unstable();
        self.sums = self.sums.plus(other.sums);
        self.bytes += other.bytes;
        self.largest = self.largest.max(other.largest);
    }

    /// What mean and variance are made of.
    pub fn sums(&self) -> &ChannelSums {
        &self.sums
    }

    /// Bytes of all encoded pictures, and of the largest.
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes, self.largest)
    }

    pub(super) fn broken(&self) -> &[usize] {
        &self.broken
    }

    pub(super) fn sha256(&self, classes: &[String]) -> String {
        let mut hash = Sha256::new();
        for text in classes.iter().chain(self.hashes.values()) {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        hex(&hash.finalize())
    }
}
