//! What the batches of an epoch hold: which pictures in which order, and what augmentation makes of them.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use perceiver_ops::Key;
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::augment::Draw;
use crate::dataset::Dataset;
use crate::error::Result;
use crate::loader::LoaderConfig;
use crate::preprocess::Prepared;

/// Some pictures as the model takes them.
#[derive(Clone, Debug)]
pub struct Batch {
    /// f32 `[n, 3, image_size, image_size]`, on the CPU.
    pub images: Tensor,
    /// The class of each, u32 `[n]`, on the CPU.
    pub labels: Tensor,
    /// Where in the data set each stands.
    pub indices: Vec<usize>,
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
        let key = Key::new(self.config.seed)
            .fold_in_name("augmentation")
            .fold_in(epoch as u64);
        let augmentation = self.config.augmentation.as_ref();
        let images = self.pool.install(|| {
            self.prepared.batch(indices.par_iter().map(|&index| {
                let draw = augmentation.map_or(Draw::NONE, |a| a.draw(key.fold_in(index as u64)));
                (&self.data.images()[index], draw)
            }))
        })?;
        let labels: Vec<u32> = indices
            .iter()
            .map(|&index| self.data.labels()[index])
            .collect();
        let labels = Tensor::from_vec(labels, indices.len(), &Device::Cpu)?;
        Ok(Batch {
            images,
            labels,
            indices,
        })
    }
}
