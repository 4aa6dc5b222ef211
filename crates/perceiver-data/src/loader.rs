//! The data loader: preprocessed batches, prefetched on background threads.
//!
//! The content of a batch is a function of `(seed, epoch, index)`: the order of an epoch of
//! `(seed, epoch)`, and the augmentation of an image of `(seed, epoch, its index in the data set)`.
//! With shards, the order also depends on batch size and window, and images are mixed with others
//! of their window. Threads and prefetching affect only when a batch is ready, and an epoch can be
//! resumed at any batch.
//!
//! With [`LoaderConfig::balanced`] all classes are equally frequent in an epoch. An image that then
//! occurs several times is augmented differently each time.
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
//!     transformers: None,
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

pub(crate) mod batch;
pub(crate) mod config;
pub(crate) mod epoch;
pub(crate) mod sampler;
pub(crate) mod shard_order;
pub(crate) mod shard_stream;
pub(crate) mod shuffle;

use std::sync::Arc;

use rayon::ThreadPoolBuilder;

use crate::dataset::Dataset;
use crate::error::{DataError, Result};
use crate::formats::shards::ShardedDataset;
use crate::loader::batch::Batches;
use crate::loader::config::LoaderConfig;
use crate::loader::epoch::Epoch;
use crate::loader::sampler::EpochOrder;
use crate::loader::shard_stream::{Drawn, Stream};
use crate::source::map_dataset::MappedSamples;
use crate::source::samples::Samples;
use crate::transforms::preprocess::{Prepared, Preprocessing};

/// A data loader, which iterates over a data set in batches, epoch by epoch.
pub struct Loader {
    batches: Arc<Batches>,
    samples: PreparedSamples,
    preprocessing: Preprocessing,
}

/// Samples, with the preprocessing tables that all epochs share.
enum PreparedSamples {
    InMemory(Arc<Dataset>, Arc<Prepared>),
    Sharded(Arc<ShardedDataset>),
    Mapped(MappedSamples),
}

impl Loader {
    /// Creates a loader. Samples are shared, not copied.
    ///
    /// # Errors
    /// When an option is invalid, when shards are to be balanced by class, or the threads cannot be
    /// started.
    pub fn new(
        samples: impl Into<Samples>,
        preprocessing: Preprocessing,
        config: LoaderConfig,
    ) -> Result<Self> {
        config.validate()?;
        preprocessing.validate()?;
        let samples = match samples.into() {
            Samples::InMemory(data) => {
                let prepared = preprocessing.prepare(data.images())?;
                PreparedSamples::InMemory(data, Arc::new(prepared))
            }
            Samples::Sharded(data) => {
                config.require_shard_order(data.name())?;
                PreparedSamples::Sharded(data)
            }
            Samples::Mapped(data) => PreparedSamples::Mapped(data),
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
            samples,
            preprocessing,
        })
    }

    /// Returns the preprocessing, without augmentation, which a checkpoint must store.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// Returns the number of images per epoch.
    pub fn num_samples(&self) -> usize {
        match &self.samples {
            PreparedSamples::InMemory(data, _) => data.len(),
            PreparedSamples::Sharded(data) => data.len(),
            PreparedSamples::Mapped(data) => data.len(),
        }
    }

    /// Returns the number of batches per epoch, including a partial last one.
    pub fn batches_per_epoch(&self) -> usize {
        self.num_samples().div_ceil(self.batches.config.batch_size)
    }

    /// Returns the batches of an epoch from `first_batch` on, identical to skipping that many
    /// batches of the whole epoch.
    pub fn epoch(&self, epoch: usize, first_batch: usize) -> Epoch {
        let batches = Arc::clone(&self.batches);
        let prefetch = batches.config.prefetch;
        match &self.samples {
            PreparedSamples::InMemory(data, prepared) => {
                let (data, prepared) = (Arc::clone(data), Arc::clone(prepared));
                Epoch::start(prefetch, move || {
                    let labels = data.labels().iter().copied();
                    let order = EpochOrder::new(&batches.config, labels, epoch);
                    let rest = first_batch..order.num_batches();
                    rest.map(move |batch| batches.of_dataset(&data, &prepared, &order, batch))
                })
            }
            PreparedSamples::Mapped(data) => {
                let (data, preprocessing) = (data.clone(), self.preprocessing.clone());
                Epoch::start(prefetch, move || {
                    let labels = (0..data.len()).map(|index| data.label(index));
                    let order = EpochOrder::new(&batches.config, labels, epoch);
                    let rest = first_batch..order.num_batches();
                    rest.map(move |batch| batches.of_mapped(&data, &preprocessing, &order, batch))
                })
            }
            PreparedSamples::Sharded(data) => {
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
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::dataset::image::Image;
    use crate::dataset::part::Part;
    use crate::loader::batch::Batch;
    use crate::transforms::augment::Augmentation;
    use crate::transforms::fit::Fit;
    use crate::transforms::normalize::Normalization;

    fn loader(len: usize, config: LoaderConfig) -> Loader {
        labelled((0..len).map(|i| (i % 3) as u32).collect(), config)
    }

    fn labelled(labels: Vec<u32>, config: LoaderConfig) -> Loader {
        let images = (0..labels.len())
            .map(|i| Image::new(3, 4, (0..36).map(|j| (i * 41 + j * 7) as u8).collect()).unwrap())
            .collect();
        let classes = ["a", "b", "c"].map(String::from).to_vec();
        let preprocessing = Preprocessing {
            image_size: 5,
            antialias: false,
            fit: Fit::Stretch,
            normalization: Normalization {
                mean: vec![128.0; 3],
                variance: vec![5000.0; 3],
            },
            transformers: None,
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

    /// Returns the indices, labels and pixel bits of every batch.
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
        fn every_index_occurs_once_per_epoch(
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
        fn threads_and_prefetch_do_not_change_the_batches(len in 1_usize..40, seed: u64, prefetch in 0_usize..5) {
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
        fn starting_at_a_batch_equals_skipping_to_it(len in 0_usize..40, seed: u64, first in 0_usize..8) {
            let loader = loader(len, training(seed, 6));
            let late = contents(loader.epoch(1, first));
            let all = contents(loader.epoch(1, 0));
            prop_assert_eq!(late, all.into_iter().skip(first).collect::<Vec<_>>());
        }
    }

    #[test]
    fn parts_of_batches_form_the_batches() {
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

    /// Nine of ten images are of class 0.
    fn imbalanced(config: &LoaderConfig) -> Loader {
        let labels = (0..40).map(|i| u32::from(i % 10 == 3)).collect();
        let config = LoaderConfig {
            balanced: true,
            ..config.clone()
        };
        labelled(labels, config)
    }

    #[test]
    fn balanced_epochs_resume_and_have_parts_like_others() {
        let loader = imbalanced(&training(5, 7));
        assert_eq!(loader.batches_per_epoch(), 6);
        let whole = contents(loader.epoch(1, 0));
        let labels: Vec<u32> = whole.iter().flat_map(|batch| batch.1.clone()).collect();
        assert_eq!(labels.len(), 40);
        assert_eq!(labels.iter().sum::<u32>(), 20);
        for first in 0..8 {
            let late = contents(loader.epoch(1, first));
            assert_eq!(late, whole[first.min(6)..], "from batch {first}");
        }
        let parts = [0, 1, 2].map(|index| {
            let part = Part { index, of: 3 };
            let config = LoaderConfig {
                part,
                ..training(5, 7)
            };
            contents(imbalanced(&config).epoch(1, 0))
        });
        for (batch, whole) in whole.iter().enumerate() {
            let pixels: Vec<u32> = parts
                .iter()
                .flat_map(|part| part[batch].2.clone())
                .collect();
            assert_eq!(pixels, whole.2);
        }
    }

    #[test]
    fn repeated_images_are_augmented_differently() {
        let loader = imbalanced(&training(5, 1));
        let mut seen: HashMap<usize, Vec<Vec<u32>>> = HashMap::new();
        for (indices, _, pixels) in contents(loader.epoch(0, 0)) {
            seen.entry(indices[0]).or_default().push(pixels);
        }
        for rare in [3, 13, 23, 33] {
            let times = seen.get_mut(&rare).unwrap();
            assert_eq!(times.len(), 5);
            times.sort_unstable();
            times.dedup();
            assert_eq!(times.len(), 5, "image {rare}");
        }
    }

    #[test]
    fn partners_of_mixing_are_balanced_too() {
        let mut config = training(5, 40);
        if let Some(augmentation) = &mut config.augmentation {
            augmentation.mixing.mixup = 1.0;
        }
        let partners = |loader: Loader| {
            let batches = (0..20).flat_map(|epoch| loader.epoch(epoch, 0));
            let rare = batches.map(|batch| {
                let labels = batch.unwrap().mixed.unwrap().labels;
                labels.to_vec1::<u32>().unwrap().iter().sum::<u32>()
            });
            rare.sum::<u32>()
        };
        // Of 800: 400, or 80 without balance, up to five standard errors.
        let balanced = partners(imbalanced(&config));
        assert!((330..470).contains(&balanced), "{balanced}");
        let labels = (0..40).map(|i| u32::from(i % 10 == 3)).collect();
        let plain = partners(labelled(labels, config));
        assert!((37..123).contains(&plain), "{plain}");
    }

    #[test]
    fn an_epoch_may_be_dropped_early() {
        let loader = loader(
            100,
            LoaderConfig {
                prefetch: 1,
                ..training(0, 1)
            },
        );
        let mut epoch = loader.epoch(0, 0);
        assert!(epoch.next().unwrap().is_ok());
        drop(epoch); // joins the thread: a deadlock would hang here
        assert_eq!(Arc::strong_count(&loader.batches), 1);
    }

    #[test]
    fn zero_batch_size_and_zero_threads_are_rejected() {
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
