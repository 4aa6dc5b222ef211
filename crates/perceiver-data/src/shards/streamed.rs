//! Pictures in shards, read when they are asked for.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use perceiver_ops::Key;

use crate::broken_pictures::require_every_class;
use crate::dataset::TestSplit;
use crate::error::{DataError, Result};
use crate::image::Image;
use crate::image_names::{name_in_shard, name_of_file};
use crate::shards::file::ShardFile;
use crate::shards::shard::Shard;
use crate::shards::survey::Survey;

/// Labelled pictures in shards, of which places and labels are in memory. A clone shares them.
#[derive(Clone, Debug)]
pub struct Streamed {
    name: String,
    /// The data folder.
    root: PathBuf,
    classes: Vec<String>,
    shards: Arc<Vec<Shard>>,
    /// The position of every shard's first picture among all, and of the end.
    starts: Arc<Vec<usize>>,
    /// The positions of the pictures that belong to this set, which ascend.
    kept: Vec<usize>,
    shorter_side: usize,
    sha256: String,
    /// Of an encoded picture, on average and at most.
    bytes: (u64, u64),
    test_split: TestSplit,
}

/// A picture as its file has it.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// Its place in the set.
    pub(crate) index: usize,
    pub(crate) label: u32,
    bytes: Vec<u8>,
}

impl Streamed {
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

    /// The same pictures, which are this kind of a test split.
    #[must_use]
    pub(super) fn with_test_split(mut self, kind: TestSplit) -> Self {
        self.test_split = kind;
        self
    }

    /// What kind of a test split these are; [`TestSplit::Own`] of those that are none.
    pub fn test_split(&self) -> TestSplit {
        self.test_split
    }

    /// What the data set is called, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Class names; a label indexes them.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The number of pictures.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// SHA-256 in hexadecimal of labels and encoded pictures in order, shard by shard; empty before the survey.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The files, as they are now.
    ///
    /// # Errors
    /// When one is not there any more.
    pub fn files(&self) -> Result<Vec<ShardFile>> {
        let shards = self.shards.iter();
        shards.map(|shard| ShardFile::of(shard.path())).collect()
    }

    /// The number of files.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Bytes in memory of the places and labels of all pictures.
    pub fn index_bytes(&self) -> usize {
        let of_shards: usize = self.shards.iter().map(Shard::index_bytes).sum();
        of_shards + size_of_val(&self.kept[..])
    }

    /// Bytes of an encoded picture, on average and at most; zeros before the survey.
    pub fn picture_bytes(&self) -> (u64, u64) {
        self.bytes
    }

    /// Keeps the first `len` pictures.
    pub fn truncate(&mut self, len: usize) {
        self.kept.truncate(len);
    }

    /// The class index of every picture, in order.
    pub fn labels(&self) -> impl Iterator<Item = u32> {
        (0..self.len()).map(|index| self.label(index))
    }

    /// The class index of a picture.
    pub(crate) fn label(&self, index: usize) -> u32 {
        let (shard, row) = self.place(index);
        self.shards[shard].labels()[row]
    }

    /// The same without the pictures that a survey of it has found broken.
    ///
    /// # Errors
    /// [`DataError::UnreadableClass`] when a class has lost all it had, [`DataError::Inconsistent`] when nothing is left.
    pub fn surveyed(mut self, survey: &Survey) -> Result<Self> {
        let labels = |kept: &Self| (0..kept.len()).map(|i| kept.label(i)).collect::<Vec<_>>();
        let before = labels(&self);
        let broken = survey.broken();
        self.kept
            .retain(|position| broken.binary_search(position).is_err());
        if self.is_empty() {
            return Err(DataError::Inconsistent {
                name: self.name,
                expected: "pictures that can be read".to_owned(),
                found: format!("none among {}", before.len()),
            });
        }
        if !broken.is_empty() {
            let (name, all) = (&self.name, before.len());
            tracing::warn!("{name}: {} of {all} pictures are skipped", broken.len());
            require_every_class(name, &before, &labels(&self), &self.classes)?;
        }
        self.sha256 = survey.sha256(&self.classes);
        let (bytes, largest) = survey.bytes();
        self.bytes = (bytes / before.len() as u64, largest);
        Ok(self)
    }

    /// Takes a share of the pictures out as a second set: one of every so many in a row, which the seed draws, as shards may be sorted by
    /// class or have the classes in turn. As many stay as [`Dataset::split_tail`](crate::Dataset::split_tail) leaves.
    #[must_use]
    pub fn split_drawn(self, share: f64, seed: u64) -> (Self, Self) {
        let len = self.len();
        let count = len - (len as f64 * (1.0 - share)).floor() as usize;
        let key = Key::new(seed).fold_in_name("validation");
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

    /// Reads and decodes a picture.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn image(&self, index: usize) -> Result<Image> {
        let encoded = self.read(&[index])?;
        self.decode(&encoded[0])
    }

    /// The name of every image, in order: its shard in the data folder, and its key there or its row. Shards are looked through one by
    /// one, which reads no image.
    ///
    /// # Errors
    /// When a shard cannot be read, or has changed.
    pub fn image_names(&self) -> Result<Vec<String>> {
        let mut names = Vec::with_capacity(self.len());
        for range in self.by_shard() {
            let (shard, _) = self.place(range.start);
            let rows = range.map(|index| self.place(index).1);
            let rows: Vec<usize> = rows.collect();
            let shard = &self.shards[shard];
            let file = name_of_file(&self.root, shard.path());
            let keys = shard.keys(&rows)?;
            names.extend(keys.into_iter().map(|key| name_in_shard(&file, key)));
        }
        Ok(names)
    }

    /// The indices of every shard's pictures, of those that have some.
    pub(super) fn by_shard(&self) -> Vec<Range<usize>> {
        let ends = self.starts[1..].iter();
        let ends = ends.map(|end| self.kept.partition_point(|position| position < end));
        let mut start = 0;
        let ranges = ends.map(|end| std::mem::replace(&mut start, end)..end);
        ranges.filter(|range| !range.is_empty()).collect()
    }

    /// The position of a picture among all of the shards.
    pub(super) fn position(&self, index: usize) -> usize {
        self.kept[index]
    }

    /// The encoded pictures at `indices`, in their order; each shard is read forwards.
    pub(crate) fn read(&self, indices: &[usize]) -> Result<Vec<Encoded>> {
        let mut wanted: Vec<(usize, usize)> = indices.iter().copied().zip(0..).collect();
        wanted.sort_unstable();
        let mut read: Vec<(usize, Encoded)> = Vec::with_capacity(indices.len());
        for of_shard in wanted.chunk_by(|a, b| self.place(a.0).0 == self.place(b.0).0) {
            let shard = &self.shards[self.place(of_shard[0].0).0];
            let rows = of_shard.iter().map(|&(index, _)| self.place(index).1);
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

    /// The picture, shrunk as it is used.
    pub(crate) fn decode(&self, encoded: &Encoded) -> Result<Image> {
        let (shard, row) = self.place(encoded.index);
        let origin = self.shards[shard].origin(row);
        Image::decode_shrunk(&encoded.bytes, Path::new(&origin), self.shorter_side)
    }

    /// The shard that a picture is in, and its row there.
    fn place(&self, index: usize) -> (usize, usize) {
        let position = self.kept[index];
        let shard = self.starts.partition_point(|&start| start <= position) - 1;
        (shard, position - self.starts[shard])
    }
}

impl Encoded {
    /// The bytes of the file.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
