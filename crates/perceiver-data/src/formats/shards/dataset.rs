//! A sharded data set: an index in memory, images read on demand.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use perceiver_ops::RngKey;

use crate::dataset::TestSplit;
use crate::dataset::image::Image;
use crate::dataset::image_names::{name_in_shard, name_of_file};
use crate::error::{DataError, Result};
use crate::formats::broken_images::require_every_class;
use crate::formats::shards::fingerprint::ShardFile;
use crate::formats::shards::shard::Shard;

/// Labelled images in shards, with locations and labels in memory. A clone shares them.
#[derive(Clone, Debug)]
pub struct ShardedDataset {
    name: String,
    /// The data folder.
    root: PathBuf,
    classes: Vec<String>,
    shards: Arc<Vec<Shard>>,
    /// The position of each shard's first image among all images, and the total.
    starts: Arc<Vec<usize>>,
    /// The positions of this set's images, ascending.
    kept: Vec<usize>,
    shorter_side: usize,
    sha256: String,
    /// The mean and the maximum size of an encoded image in bytes.
    bytes: (u64, u64),
    test_split: TestSplit,
}

/// An encoded image.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// Its index in the set.
    pub(crate) index: usize,
    pub(crate) label: u32,
    bytes: Vec<u8>,
}

impl ShardedDataset {
    pub(super) fn new(
        (name, root): (String, PathBuf),
        classes: Vec<String>,
        shards: Vec<Shard>,
        shorter_side: usize,
    ) -> Self {
        let mut starts = vec![0];
        for shard in &shards {
            starts.push(starts[starts.len() - 1] + shard.len());
        }
        Self {
            name,
            root,
            classes,
            kept: (0..starts[shards.len()]).collect(),
            shards: Arc::new(shards),
            starts: Arc::new(starts),
            shorter_side,
            sha256: String::new(),
            bytes: (0, 0),
            test_split: TestSplit::Own,
        }
    }

    /// Marks the images as this kind of test split.
    #[must_use]
    pub(super) fn with_test_split(mut self, kind: TestSplit) -> Self {
        self.test_split = kind;
        self
    }

    /// Returns the kind of test split; [`TestSplit::Own`] for other splits.
    pub fn test_split(&self) -> TestSplit {
        self.test_split
    }

    /// Returns the display name of the data set.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the class names, indexed by label.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Returns the SHA-256, in hexadecimal, of labels and encoded images in order, per shard; empty
    /// before the survey.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Returns the current state of the shard files.
    ///
    /// # Errors
    /// When a file no longer exists.
    pub fn files(&self) -> Result<Vec<ShardFile>> {
        let shards = self.shards.iter();
        shards.map(|shard| ShardFile::of(shard.path())).collect()
    }

    /// Returns the number of shards.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Returns the bytes of memory for locations and labels of all images.
    pub fn index_bytes(&self) -> usize {
        let of_shards: usize = self.shards.iter().map(Shard::index_bytes).sum();
        of_shards + size_of_val(&self.kept[..])
    }

    /// Returns the mean and the maximum size of an encoded image in bytes; zeros before the survey.
    pub fn image_bytes(&self) -> (u64, u64) {
        self.bytes
    }

    /// Keeps the first `len` images.
    pub fn truncate(&mut self, len: usize) {
        self.kept.truncate(len);
    }

    /// Returns the class index of every image, in order.
    pub fn labels(&self) -> impl Iterator<Item = u32> {
        (0..self.len()).map(|index| self.label(index))
    }

    /// Returns the class index of an image.
    pub(crate) fn label(&self, index: usize) -> u32 {
        let (shard, row) = self.locate(index);
        self.shards[shard].labels()[row]
    }

    /// Removes the images at these ascending positions, which a survey has found broken.
    ///
    /// # Errors
    /// [`DataError::UnreadableClass`] when a class has lost all images, [`DataError::Inconsistent`]
    /// when nothing is left.
    pub(super) fn without(mut self, broken: &[usize]) -> Result<Self> {
        let labels = |kept: &Self| (0..kept.len()).map(|i| kept.label(i)).collect::<Vec<_>>();
        let before = labels(&self);
        self.kept
            .retain(|position| broken.binary_search(position).is_err());
        if self.is_empty() {
            return Err(DataError::Inconsistent {
                name: self.name,
                expected: "readable images".to_owned(),
                found: format!("none among {}", before.len()),
            });
        }
        if !broken.is_empty() {
            let (name, all) = (&self.name, before.len());
            tracing::warn!("{name}: {} of {all} images are skipped", broken.len());
            require_every_class(name, &before, &labels(&self), &self.classes)?;
        }
        Ok(self)
    }

    /// Sets the content hash and the mean and maximum size of an encoded image in bytes.
    #[must_use]
    pub(super) fn with_content(mut self, sha256: String, bytes: (u64, u64)) -> Self {
        self.sha256 = sha256;
        self.bytes = bytes;
        self
    }

    /// Splits off a share of the images as a second set: one, drawn by the seed, of every few
    /// consecutive images, as shards may be sorted by class or alternate the classes. The first set
    /// is as large as [`Dataset::split_tail`](crate::Dataset::split_tail) leaves.
    #[must_use]
    pub fn split_drawn(self, share: f64, seed: u64) -> (Self, Self) {
        let len = self.len();
        let count = len - (len as f64 * (1.0 - share)).floor() as usize;
        let key = RngKey::new(seed).fold_in_name("validation");
        let drawn = (0..count).map(|number| {
            let (start, end) = (number * len / count, (number + 1) * len / count);
            start + key.below(number as u64, end - start)
        });
        let drawn: Vec<usize> = drawn.collect();
        let (mut rest, mut out) = (self.clone(), self);
        out.kept = drawn.iter().map(|&index| rest.kept[index]).collect();
        let mut index = 0..;
        rest.kept.retain(|_| {
            index
                .next()
                .is_some_and(|index| drawn.binary_search(&index).is_err())
        });
        (rest, out)
    }

    /// Reads and decodes an image.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn image(&self, index: usize) -> Result<Image> {
        let encoded = self.read(&[index])?;
        self.decode(&encoded[0])
    }

    /// Returns the name of every image, in order: its shard in the data folder, and its key or row
    /// there. Scans the shards one by one, without reading images.
    ///
    /// # Errors
    /// When a shard cannot be read, or has changed.
    pub fn image_names(&self) -> Result<Vec<String>> {
        let mut names = Vec::with_capacity(self.len());
        for range in self.by_shard() {
            let (shard, _) = self.locate(range.start);
            let rows = range.map(|index| self.locate(index).1);
            let rows: Vec<usize> = rows.collect();
            let shard = &self.shards[shard];
            let file = name_of_file(&self.root, shard.path());
            let keys = shard.keys(&rows)?;
            names.extend(keys.into_iter().map(|key| name_in_shard(&file, key)));
        }
        Ok(names)
    }

    /// Returns the index range of each non-empty shard.
    pub(crate) fn by_shard(&self) -> Vec<Range<usize>> {
        let ends = self.starts[1..].iter();
        let ends = ends.map(|end| self.kept.partition_point(|position| position < end));
        let mut start = 0;
        let ranges = ends.map(|end| std::mem::replace(&mut start, end)..end);
        ranges.filter(|range| !range.is_empty()).collect()
    }

    /// Returns the position of an image among all images of the shards.
    pub(super) fn position(&self, index: usize) -> usize {
        self.kept[index]
    }

    /// Reads the encoded images at `indices`, in their order; each shard is read forwards.
    pub(crate) fn read(&self, indices: &[usize]) -> Result<Vec<Encoded>> {
        let mut requested: Vec<(usize, usize)> = indices.iter().copied().zip(0..).collect();
        requested.sort_unstable();
        let mut read: Vec<(usize, Encoded)> = Vec::with_capacity(indices.len());
        for of_shard in requested.chunk_by(|a, b| self.locate(a.0).0 == self.locate(b.0).0) {
            let shard = &self.shards[self.locate(of_shard[0].0).0];
            let rows = of_shard.iter().map(|&(index, _)| self.locate(index).1);
            let rows: Vec<usize> = rows.collect();
            let labels = rows.iter().map(|&row| shard.labels()[row]);
            for ((&(index, order), label), bytes) in
                of_shard.iter().zip(labels).zip(shard.read(&rows)?)
            {
                let encoded = Encoded {
                    index,
                    label,
                    bytes,
                };
                read.push((order, encoded));
            }
        }
        read.sort_unstable_by_key(|&(order, _)| order);
        Ok(read.into_iter().map(|(_, encoded)| encoded).collect())
    }

    /// Decodes an image, downscaled.
    pub(crate) fn decode(&self, encoded: &Encoded) -> Result<Image> {
        let (shard, row) = self.locate(encoded.index);
        let origin = self.shards[shard].origin(row);
        Image::decode_shrunk(&encoded.bytes, Path::new(&origin), self.shorter_side)
    }

    /// Returns the shard of an image, and its row there.
    fn locate(&self, index: usize) -> (usize, usize) {
        let position = self.kept[index];
        let shard = self.starts.partition_point(|&start| start <= position) - 1;
        (shard, position - self.starts[shard])
    }
}

impl Encoded {
    /// Returns the encoded bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
