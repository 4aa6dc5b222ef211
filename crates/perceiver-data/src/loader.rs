//! Batches of preprocessed pictures, made ahead of time by the loader's own threads.
//!
//! What a batch holds is a function of `(seed, epoch, index)`: the order of an epoch of `(seed, epoch)`, the
//! augmentation of a picture of `(seed, epoch, its place in the data set)`; of pictures in shards the order is one also of batch
//! size and window, and what a picture is mixed with is of its window. Threads and prefetching change when a
//! batch is ready and nothing else, and an epoch can be resumed at any batch.
//!
//! ```
//! use std::sync::Arc;
//! use perceiver_data::{Dataset, Fit, Image, Loader, LoaderConfig, Normalization, Preprocessing};
//!
//! let images = (0..5).map(|i| Image::new(1, 1, vec![i; 3])).collect::<Result<Vec<_>, _>>()?;
//! let data = Dataset::new("five", images, vec![0; 5], vec!["only".into()])?;
//! let preprocessing = Preprocessing {
//!     image_size: 4,
//!     antialias: false,
//!     fit: Fit::Stretch,
//!     normalization: Normalization::adapt(&data)?,
//! };
//! let config = LoaderConfig { batch_size: 2, ..LoaderConfig::default() };
//! let loader = Loader::new(Arc::new(data), preprocessing, config)?;
//!
//! let batches = loader.epoch(0, 0).collect::<Result<Vec<_>, _>>()?;
//! assert_eq!(batches.len(), 3);
//! assert_eq!(batches[0].images.dims(), [2, 3, 4, 4]);
//! assert_eq!(batches[2].images.dims(), [1, 3, 4, 4]); // the rest is not dropped
//! # Ok::<(), perceiver_data::DataError>(())
//! ```

use std::ops::Range;
use std::sync::Arc;

use rayon::ThreadPoolBuilder;

use crate::augment::Augmentation;
use crate::batches::Batches;
use crate::dataset::Dataset;
use crate::epoch::Epoch;
use crate::error::{DataError, Result};
use crate::pictures::Pictures;
use crate::preprocess::{Prepared, Preprocessing};
use crate::shards::{Drawn, Stream, Streamed};

/// One of several parts of every batch, which several processes make between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which part, from 0.
    pub index: usize,
    /// How many there are, at least 1.
    pub of: usize,
}

impl Part {
    /// All there is.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// This part of `len` things in a row; empty where there are too few. Parts differ by one thing at most.
    ///
    /// ```
    /// use perceiver_data::Part;
    ///
    /// let parts = [0, 1, 2].map(|index| Part { index, of: 3 }.range(7));
    /// assert_eq!(parts, [0..2, 2..4, 4..7]);
    /// ```
    pub fn range(self, len: usize) -> Range<usize> {
        self.index * len / self.of..(self.index + 1) * len / self.of
    }
}

/// How a [`Loader`] goes through a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderConfig {
    /// Pictures in a batch; the last one of an epoch may have fewer. 64 by default.
    pub batch_size: usize,
    /// The root of shuffling and augmentation. 0 by default.
    pub seed: u64,
    /// Whether every epoch has its own random order; else the data set's. Off by default.
    pub shuffle: bool,
    /// Encoded pictures that are in memory to be drawn from, where they are in shards: those of all parts together. 4096 by default.
    pub shuffle_buffer: usize,
    /// The part of every batch that is made. The whole by default.
    pub part: Part,
    /// Random changes of the pictures. None by default.
    pub augmentation: Option<Augmentation>,
    /// How many finished batches may wait to be taken. 2 by default.
    pub prefetch: usize,
    /// Threads that make a batch. By default rayon's choice: `RAYON_NUM_THREADS`, or as many as the machine offers.
    pub threads: Option<usize>,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            batch_size: 64,
            seed: 0,
            shuffle: false,
            shuffle_buffer: 4096,
            part: Part::WHOLE,
            augmentation: None,
            prefetch: 2,
            threads: None,
        }
    }
}

impl LoaderConfig {
    fn validate(&self) -> Result<()> {
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
}

/// Goes through a data set in batches, epoch after epoch.
pub struct Loader {
    batches: Arc<Batches>,
    pictures: Held,
    preprocessing: Preprocessing,
}

/// Pictures with what can be made ready for all epochs.
enum Held {
    InMemory(Arc<Dataset>, Arc<Prepared>),
    Streamed(Arc<Streamed>),
}

impl Loader {
    /// A loader of pictures, which are shared, not copied.
    ///
    /// # Errors
    /// When an option is not valid, or the operating system grants no threads.
    pub fn new(
        pictures: impl Into<Pictures>,
        preprocessing: Preprocessing,
        config: LoaderConfig,
    ) -> Result<Self> {
        config.validate()?;
        preprocessing.validate()?;
        let pictures = match pictures.into() {
            Pictures::InMemory(data) => {
                let prepared = preprocessing.prepare(data.images())?;
                Held::InMemory(data, Arc::new(prepared))
            }
            Pictures::Streamed(data) => Held::Streamed(data),
        };
        let pool = ThreadPoolBuilder::new()
            .num_threads(config.threads.unwrap_or(0)) // 0: rayon's choice
            .thread_name(|index| format!("loader-{index}"))
            .build()
            .map_err(|error| DataError::Loader {
                reason: error.to_string(),
            })?;
        Ok(Self {
            batches: Arc::new(Batches { config, pool }),
            pictures,
            preprocessing,
        })
    }

    /// What happens to every picture but for augmentation, which a checkpoint has to keep.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// The number of pictures in an epoch.
    pub fn num_samples(&self) -> usize {
        match &self.pictures {
            Held::InMemory(data, _) => data.len(),
            Held::Streamed(data) => data.len(),
        }
    }

    /// The number of batches in an epoch, a last partial one included.
    pub fn batches_per_epoch(&self) -> usize {
        self.num_samples().div_ceil(self.batches.config.batch_size)
    }

    /// The batches of an epoch from `first_batch` on, the same that skipping as many of the whole epoch would give.
    pub fn epoch(&self, epoch: usize, first_batch: usize) -> Epoch {
        let batches = Arc::clone(&self.batches);
        let prefetch = batches.config.prefetch;
        match &self.pictures {
            Held::InMemory(data, prepared) => {
                let (data, prepared) = (Arc::clone(data), Arc::clone(prepared));
                Epoch::start(prefetch, move || {
                    let LoaderConfig {
                        batch_size, part, ..
                    } = batches.config;
                    let order = batches.order(data.len(), epoch);
                    let first = first_batch.saturating_mul(batch_size).min(order.len());
                    let chunks: Vec<Vec<usize>> = order[first..]
                        .chunks(batch_size)
                        .map(|batch| batch[part.range(batch.len())].to_vec())
                        .collect();
                    let batch = move |indices: Vec<usize>| {
                        batches.of_dataset(&data, &prepared, epoch, &indices)
                    };
                    chunks.into_iter().map(batch)
                })
            }
            Held::Streamed(data) => {
                let (data, preprocessing) = (Arc::clone(data), self.preprocessing.clone());
                Epoch::start(prefetch, move || {
                    let config = &batches.config;
                    let stream = Stream::new(Arc::clone(&data), config, epoch, first_batch);
                    let batch = move |drawn: Result<Vec<Drawn>>| {
                        batches.of_stream(&data, &preprocessing, epoch, &drawn?)
                    };
                    stream.map(batch)
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batches::Batch;
    use crate::fit::Fit;
    use crate::image::Image;
    use crate::normalization::Normalization;

    fn loader(len: usize, config: LoaderConfig) -> Loader {
        let images = (0..len)
            .map(|i| Image::new(3, 4, (0..36).map(|j| (i * 41 + j * 7) as u8).collect()).unwrap())
            .collect();
        let labels = (0..len).map(|i| (i % 3) as u32).collect();
        let classes = ["a", "b", "c"].map(String::from).to_vec();
        let preprocessing = Preprocessing {
            image_size: 5,
            antialias: false,
            fit: Fit::Stretch,
            normalization: Normalization {
                mean: vec![128.0; 3],
                variance: vec![5000.0; 3],
            },
        };
        let data = Dataset::new("test", images, labels, classes).unwrap();
        Loader::new(Arc::new(data), preprocessing, config).unwrap()
    }

    fn training(seed: u64, batch_size: usize) -> LoaderConfig {
        LoaderConfig {
            batch_size,
            seed,
            shuffle: true,
            augmentation: Some(Augmentation {
                horizontal_flip: true,
                zoom: 0.2,
                ..Augmentation::default()
            }),
            ..LoaderConfig::default()
        }
    }

    /// Indices, labels and the bits of the pixels of every batch.
    fn contents(epoch: Epoch) -> Vec<(Vec<usize>, Vec<u32>, Vec<u32>)> {
        let read = |batch: Batch| {
            let pixels = batch
                .images
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap();
            let bits = pixels.into_iter().map(f32::to_bits).collect();
            (batch.indices, batch.labels.to_vec1().unwrap(), bits)
        };
        epoch.map(|batch| read(batch.unwrap())).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn every_index_comes_once_an_epoch(
            len in 0_usize..50, size in 1_usize..20, seed: u64, epoch in 0_usize..5,
        ) {
            let loader = loader(len, training(seed, size));
            let batches = contents(loader.epoch(epoch, 0));
            prop_assert_eq!(batches.len(), loader.batches_per_epoch());
            for (batch, (indices, labels, _)) in batches.iter().enumerate() {
                prop_assert_eq!(indices.len(), size.min(len - batch * size));
                let expected: Vec<u32> = indices.iter().map(|i| (i % 3) as u32).collect();
                prop_assert_eq!(labels, &expected);
            }
            let mut indices: Vec<usize> = batches.into_iter().flat_map(|batch| batch.0).collect();
            indices.sort_unstable();
            prop_assert_eq!(indices, (0..len).collect::<Vec<_>>());
        }

        #[test]
        fn threads_and_prefetch_change_no_bit(len in 1_usize..40, seed: u64, prefetch in 0_usize..5) {
            let [one, two, four] = [1, 2, 4].map(|threads| {
                let config = LoaderConfig {
                    threads: Some(threads),
                    prefetch: prefetch * (threads % 4),
                    ..training(seed, 7)
                };
                contents(loader(len, config).epoch(3, 0))
            });
            prop_assert!(one == two && one == four);
        }

        #[test]
        fn starting_late_is_skipping(len in 0_usize..40, seed: u64, first in 0_usize..8) {
            let loader = loader(len, training(seed, 6));
            let late = contents(loader.epoch(1, first));
            let all = contents(loader.epoch(1, 0));
            prop_assert_eq!(late, all.into_iter().skip(first).collect::<Vec<_>>());
        }
    }

    #[test]
    fn parts_of_batches_are_the_batches() {
        let whole = contents(loader(10, training(3, 7)).epoch(2, 0));
        for of in 1..5 {
            let part = |index| LoaderConfig {
                part: Part { index, of },
                ..training(3, 7)
            };
            let parts = (0..of).map(|index| contents(loader(10, part(index)).epoch(2, 0)));
            let joined = parts.reduce(|mut all, part| {
                for (all, part) in all.iter_mut().zip(part) {
                    all.0.extend(part.0);
                    all.1.extend(part.1);
                    all.2.extend(part.2);
                }
                all
            });
            assert_eq!(joined.as_ref(), Some(&whole), "{of} parts");
        }
    }

    #[test]
    fn seeds_and_epochs_have_their_own_order_and_augmentation() {
        let first = contents(loader(40, training(0, 40)).epoch(0, 0));
        let later = contents(loader(40, training(0, 40)).epoch(1, 0));
        let other = contents(loader(40, training(1, 40)).epoch(0, 0));
        assert!(first[0].0 != later[0].0 && first[0].0 != other[0].0);

        let in_order = |seed| LoaderConfig {
            shuffle: false,
            ..training(seed, 40)
        };
        let first = contents(loader(40, in_order(0)).epoch(0, 0));
        let later = contents(loader(40, in_order(0)).epoch(1, 0));
        assert_eq!(first[0].0, (0..40).collect::<Vec<_>>());
        assert_eq!(first[0].0, later[0].0);
        assert_ne!(first[0].2, later[0].2);
    }

    #[test]
    fn an_epoch_may_be_left_early() {
        let loader = loader(
            100,
            LoaderConfig {
                prefetch: 1,
                ..training(0, 1)
            },
        );
        let mut epoch = loader.epoch(0, 0);
        assert!(epoch.next().unwrap().is_ok());
        drop(epoch); // waits for the thread: a deadlock would hang here
        assert_eq!(Arc::strong_count(&loader.batches), 1);
    }

    #[test]
    fn zero_is_no_size_and_no_number_of_threads() {
        let no_size = LoaderConfig {
            batch_size: 0,
            ..LoaderConfig::default()
        };
        let no_threads = LoaderConfig {
            threads: Some(0),
            ..LoaderConfig::default()
        };
        for (config, option) in [(no_size, "batch_size"), (no_threads, "threads")] {
            let message = config.validate().unwrap_err().to_string();
            assert_eq!(message, format!("{option}: expected at least 1, found 0"));
        }
    }
}
