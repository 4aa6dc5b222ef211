//! Builds batches: augmentation, preprocessing, labels.

use candle_core::{Device, Tensor, WithDType};
use perceiver_ops::RngKey;
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::dataset::Dataset;
use crate::dataset::image::Image;
use crate::error::{DataError, Result};
use crate::formats::shards::ShardedDataset;
use crate::loader::config::LoaderConfig;
use crate::loader::sampler::{EpochOrder, Sample};
use crate::loader::shard_stream::Drawn;
use crate::source::map_dataset::MappedSamples;
use crate::transforms::augment::{Augmentation, Draw};
use crate::transforms::mixup_cutmix::Mix;
use crate::transforms::preprocess::{Prepared, Preprocessing};
use crate::transforms::random_erasing::erase;
use crate::transforms::resample::Scratch;

/// A batch of model inputs with their labels.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Images, f32 `[n, 3, image_size, image_size]`, on the CPU.
    pub images: Tensor,
    /// Class labels, u32 `[n]`, on the CPU.
    pub labels: Tensor,
    /// The mixup and CutMix partners; `None` if the loader mixes no images.
    pub mixed: Option<Mixed>,
    /// The index of each image in the data set.
    pub indices: Vec<usize>,
}

/// The partners that the images of a batch are mixed with (mixup, CutMix).
#[derive(Clone, Debug)]
pub struct Mixed {
    /// Class labels of the partners, u32 `[n]`, on the CPU.
    pub labels: Tensor,
    /// The share of the image itself in the mix, f32 `[n]`, on the CPU: 1 if it is not mixed.
    pub shares: Tensor,
}

/// The batch builder of all epochs.
pub(crate) struct Batches {
    pub(crate) config: LoaderConfig,
    pub(crate) pool: ThreadPool,
}

/// An image of a batch before preprocessing.
struct Item<'a> {
    sample: Sample,
    label: u32,
    image: &'a Image,
    other: Option<Other<'a>>,
}

/// An image that was read for a batch, with the partner that it is mixed with.
struct Decoded {
    sample: Sample,
    label: u32,
    image: Image,
    other: Option<(Mix, u32, Image)>,
}

/// The partner that an image is mixed with.
struct Other<'a> {
    mix: Mix,
    label: u32,
    image: &'a Image,
}

impl Batches {
    /// Builds a batch of an epoch from images in memory.
    pub(crate) fn of_dataset(
        &self,
        data: &Dataset,
        prepared: &Prepared,
        order: &EpochOrder,
        batch: usize,
    ) -> Result<Batch> {
        let (images, labels) = (data.images(), data.labels());
        let (epoch, side) = (order.epoch, prepared.image_size());
        let items = order.batch(batch).iter().map(|&sample| Item {
            sample,
            label: labels[sample.index],
            image: &images[sample.index],
            other: self.mix(epoch, sample, data.len(), side).map(|mix| {
                let other = order.partner(mix.other);
                Other {
                    mix,
                    label: labels[other],
                    image: &images[other],
                }
            }),
        });
        self.batch(prepared, epoch, &items.collect::<Vec<_>>())
    }

    /// Builds a batch from images of shards, augmented for this epoch.
    pub(crate) fn of_stream(
        &self,
        data: &ShardedDataset,
        preprocessing: &Preprocessing,
        epoch: usize,
        drawn: &[Drawn],
    ) -> Result<Batch> {
        let side = preprocessing.image_size;
        self.of_decoded(preprocessing, epoch, drawn, |drawn| {
            let (image, window) = (drawn.image(), drawn.window());
            let sample = Sample::once(image.index);
            let mix = self.mix(epoch, sample, window.len(), side);
            let other = mix.map(|mix| {
                let other = &window[mix.other];
                Ok::<_, DataError>((mix, other.label, data.decode(other)?))
            });
            Ok(Decoded {
                sample,
                label: image.label,
                image: data.decode(image)?,
                other: other.transpose()?,
            })
        })
    }

    /// Builds a batch of an epoch from images of a map-style data set.
    pub(crate) fn of_mapped(
        &self,
        data: &MappedSamples,
        preprocessing: &Preprocessing,
        order: &EpochOrder,
        batch: usize,
    ) -> Result<Batch> {
        let (epoch, side) = (order.epoch, preprocessing.image_size);
        self.of_decoded(preprocessing, epoch, order.batch(batch), |&sample| {
            let mix = self.mix(epoch, sample, data.len(), side);
            let other = mix.map(|mix| {
                let other = order.partner(mix.other);
                Ok::<_, DataError>((mix, data.label(other), data.image(other)?))
            });
            Ok(Decoded {
                sample,
                label: data.label(sample.index),
                image: data.image(sample.index)?,
                other: other.transpose()?,
            })
        })
    }

    /// Builds a batch from images that `decode` reads for it.
    fn of_decoded<T: Sync>(
        &self,
        preprocessing: &Preprocessing,
        epoch: usize,
        drawn: &[T],
        decode: impl Fn(&T) -> Result<Decoded> + Send + Sync,
    ) -> Result<Batch> {
        let decoded = self
            .pool
            .install(|| drawn.par_iter().map(decode).collect::<Result<Vec<_>>>())?;
        let images = decoded.iter().flat_map(|decoded| {
            let other = decoded.other.as_ref().map(|(.., image)| image);
            std::iter::once(&decoded.image).chain(other)
        });
        let prepared = preprocessing.prepare(images)?;
        let items = decoded.iter().map(|decoded| Item {
            sample: decoded.sample,
            label: decoded.label,
            image: &decoded.image,
            other: decoded.other.as_ref().map(|(mix, label, image)| Other {
                mix: *mix,
                label: *label,
                image,
            }),
        });
        self.batch(&prepared, epoch, &items.collect::<Vec<_>>())
    }

    fn augmentation(&self) -> Augmentation {
        self.config.augmentation.unwrap_or_default()
    }

    /// Returns the random key of an image in an epoch, for everything except its order.
    fn key(&self, epoch: usize, sample: Sample) -> RngKey {
        let first = RngKey::new(self.config.seed)
            .fold_in_name("augmentation")
            .fold_in(epoch as u64)
            .fold_in(sample.index as u64);
        match sample.repeat {
            0 => first,
            repeat => first.fold_in_name("repeat").fold_in(repeat as u64),
        }
    }

    /// Draws the partner of an image among `others` candidates and the way they are mixed, if any.
    fn mix(&self, epoch: usize, sample: Sample, others: usize, side: usize) -> Option<Mix> {
        let key = self.key(epoch, sample).fold_in_name("mixing");
        self.augmentation().mixing.draw(key, others, side)
    }

    fn batch(&self, prepared: &Prepared, epoch: usize, items: &[Item]) -> Result<Batch> {
        let side = prepared.image_size();
        let images = self.pool.install(|| {
            prepared.tensor(items.par_iter(), |scratch, item, out| {
                let key = self.key(epoch, item.sample);
                let flip = self.alternating_flip(epoch, item.sample);
                self.write_image(prepared, item.image, key, flip, scratch, out)?;
                if let Some(Other { mix, image, .. }) = &item.other {
                    let mut other = vec![0.0; out.len()];
                    let key = key.fold_in_name("other");
                    self.write_image(prepared, image, key, None, scratch, &mut other)?;
                    mix.apply(out, &other, side);
                }
                Ok(())
            })
        })?;
        let labels = items.iter().map(|item| item.label).collect();
        let mixed = self.augmentation().mixing.is_on();
        Ok(Batch {
            images,
            labels: on_cpu(labels)?,
            mixed: mixed.then(|| mixed_with(items)).transpose()?,
            indices: items.iter().map(|item| item.sample.index).collect(),
        })
    }

    /// Returns whether an image is flipped in an epoch, if the flip alternates. An image that an epoch
    /// has several times is flipped every other time.
    fn alternating_flip(&self, epoch: usize, sample: Sample) -> Option<bool> {
        let key = RngKey::new(self.config.seed)
            .fold_in_name("alternating_flip")
            .fold_in(sample.index as u64);
        self.augmentation()
            .alternating_flip_in(epoch + sample.repeat, key)
    }

    /// Writes one augmented image to `out`, `[3, side, side]`; `flip` replaces the random flip.
    fn write_image(
        &self,
        prepared: &Prepared,
        image: &Image,
        key: RngKey,
        flip: Option<bool>,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) -> Result<()> {
        let augmentation = self.augmentation();
        let image = prepared.cropped_and_resized(image)?;
        let changes = key.fold_in_name("rand_augment");
        let image = augmentation.rand_augment.apply(&image, changes);
        let drawn = augmentation.draw(key);
        let flip = flip.unwrap_or(drawn.flip);
        prepared.write(&image, &Draw { flip, ..drawn }, scratch, out);
        let side = prepared.image_size();
        let erased = augmentation.erasing.draw(key.fold_in_name("erasing"), side);
        if let Some(rectangle) = erased {
            erase(out, side, rectangle);
        }
        Ok(())
    }
}

fn mixed_with(items: &[Item]) -> Result<Mixed> {
    let labels = items.iter().map(|item| match &item.other {
        Some(other) => other.label,
        None => item.label,
    });
    let shares = items
        .iter()
        .map(|item| item.other.as_ref().map_or(1.0, |other| other.mix.share));
    Ok(Mixed {
        labels: on_cpu(labels.collect())?,
        shares: on_cpu(shares.collect::<Vec<f32>>())?,
    })
}

fn on_cpu<T: WithDType>(values: Vec<T>) -> Result<Tensor> {
    let count = values.len();
    Ok(Tensor::from_vec(values, count, &Device::Cpu)?)
}
