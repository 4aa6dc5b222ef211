//! What the batches of an epoch hold: which pictures in which order, and what augmentation makes of them.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use perceiver_ops::Key;
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::augment::Augmentation;
use crate::dataset::Dataset;
use crate::erase::erase;
use crate::error::Result;
use crate::loader::LoaderConfig;
use crate::mix::Mix;
use crate::preprocess::Prepared;
use crate::resample::Scratch;

/// Some pictures as the model takes them.
#[derive(Clone, Debug)]
pub struct Batch {
    /// f32 `[n, 3, image_size, image_size]`, on the CPU.
    pub images: Tensor,
    /// The class of each, u32 `[n]`, on the CPU.
    pub labels: Tensor,
    /// What they are mixed with; none where no picture of the loader's is mixed.
    pub mixed: Option<Mixed>,
    /// Where in the data set each stands.
    pub indices: Vec<usize>,
}

/// What the pictures of a batch are mixed with.
#[derive(Clone, Debug)]
pub struct Mixed {
    /// The class of the other picture, u32 `[n]`, on the CPU.
    pub labels: Tensor,
    /// How much of the picture itself is left, f32 `[n]`, on the CPU: 1 where it is not mixed.
    pub shares: Tensor,
}

/// What the batches of all epochs are made from.
pub(crate) struct Batches {
    pub(crate) data: Arc<Dataset>,
    pub(crate) prepared: Prepared,
    pub(crate) config: LoaderConfig,
    pub(crate) pool: ThreadPool,
}

impl Batches {
    /// Every index once: in order, or shuffled by Fisher and Yates.
    pub(crate) fn order(&self, epoch: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.data.len()).collect();
        if self.config.shuffle {
            let key = Key::new(self.config.seed)
                .fold_in_name("shuffle")
                .fold_in(epoch as u64);
            for last in (1..order.len()).rev() {
                // The high half of bits * n is uniform below n, up to n / 2^64.
                let other = (u128::from(key.bits(last as u64)) * (last as u128 + 1)) >> 64;
                order.swap(last, other as usize);
            }
        }
        order
    }

    /// The pictures at `indices` as this epoch shows them.
    pub(crate) fn batch(&self, epoch: usize, indices: Vec<usize>) -> Result<Batch> {
        let augmentation = self.config.augmentation.unwrap_or_default();
        let key = Key::new(self.config.seed)
            .fold_in_name("augmentation")
            .fold_in(epoch as u64);
        let key_of = |index: usize| key.fold_in(index as u64);
        let side = self.prepared.image_size();
        let mixes: Vec<Option<Mix>> = indices
            .iter()
            .map(|&index| {
                let key = key_of(index).fold_in_name("mixing");
                augmentation.mixing.draw(key, self.data.len(), side)
            })
            .collect();
        let images = self.pool.install(|| {
            let pairs = indices.par_iter().zip(&mixes);
            self.prepared.tensor(pairs, |scratch, (&index, mix), out| {
                self.picture(&augmentation, index, key_of(index), scratch, out);
                if let Some(mix) = mix {
                    let mut other = vec![0.0; out.len()];
                    let key = key_of(index).fold_in_name("other");
                    self.picture(&augmentation, mix.other, key, scratch, &mut other);
                    mix.apply(out, &other, side);
                }
            })
        })?;
        let mixed = augmentation.mixing.is_on();
        Ok(Batch {
            images,
            labels: self.labels(indices.iter().copied())?,
            mixed: mixed.then(|| self.mixed(&indices, &mixes)).transpose()?,
            indices,
        })
    }

    /// One picture, augmented, into `out` `[3, side, side]`.
    fn picture(
        &self,
        augmentation: &Augmentation,
        index: usize,
        key: Key,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let changes = key.fold_in_name("rand_augment");
        let image = augmentation
            .rand_augment
            .apply(&self.data.images()[index], changes);
        self.prepared
            .apply(&image, &augmentation.draw(key), scratch, out);
        let side = self.prepared.image_size();
        let erased = augmentation.erasing.draw(key.fold_in_name("erasing"), side);
        if let Some(rectangle) = erased {
            erase(out, side, rectangle);
        }
    }

    fn labels(&self, indices: impl ExactSizeIterator<Item = usize>) -> Result<Tensor> {
        let count = indices.len();
        let labels: Vec<u32> = indices.map(|index| self.data.labels()[index]).collect();
        Ok(Tensor::from_vec(labels, count, &Device::Cpu)?)
    }

    fn mixed(&self, indices: &[usize], mixes: &[Option<Mix>]) -> Result<Mixed> {
        let others = indices
            .iter()
            .zip(mixes)
            .map(|(&index, mix)| mix.map_or(index, |mix| mix.other));
        let shares: Vec<f32> = mixes
            .iter()
            .map(|mix| mix.map_or(1.0, |mix| mix.share))
            .collect();
        Ok(Mixed {
            labels: self.labels(others)?,
            shares: Tensor::from_vec(shares, mixes.len(), &Device::Cpu)?,
        })
    }
}
