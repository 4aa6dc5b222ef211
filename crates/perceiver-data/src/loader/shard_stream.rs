//! Streams encoded images from shards through a shuffle buffer.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use perceiver_ops::RngKey;

use crate::error::Result;
use crate::formats::shards::{Encoded, ShardedDataset};
use crate::loader::config::LoaderConfig;
use crate::loader::shard_order::Order;

/// An image and the window it was drawn from.
#[derive(Debug)]
pub(crate) struct Drawn {
    window: Arc<Vec<Encoded>>,
    index: usize,
}

impl Drawn {
    pub(crate) fn image(&self) -> &Encoded {
        &self.window[self.index]
    }

    /// Returns the candidates for mixing: a function of seed and epoch, as the image is.
    pub(crate) fn window(&self) -> &[Encoded] {
        &self.window
    }
}

/// An iterator over one part of the batches of an epoch.
pub(crate) struct Stream {
    dataset: Arc<ShardedDataset>,
    config: LoaderConfig,
    /// The shuffled order; `None` for the order of the shards.
    order: Option<Order>,
    batch: usize,
    /// The window read for each lane, with its batches.
    windows: HashMap<usize, (Range<usize>, Arc<Vec<Encoded>>)>,
}

impl Stream {
    pub(crate) fn new(
        dataset: Arc<ShardedDataset>,
        config: &LoaderConfig,
        epoch: usize,
        first_batch: usize,
    ) -> Self {
        let key = RngKey::new(config.seed)
            .fold_in_name("shuffle")
            .fold_in(epoch as u64);
        let order = config.shuffle.then(|| {
            let shards = dataset.by_shard();
            Order::new(&shards, config.batch_size, config.shuffle_buffer, key)
        });
        Self {
            dataset,
            config: config.clone(),
            order,
            batch: first_batch,
            windows: HashMap::new(),
        }
    }

    /// Returns the images of this part of a batch of `len`.
    fn draw(&mut self, batch: usize, len: usize) -> Result<Vec<Drawn>> {
        let lanes = self.config.part.range(len);
        let Some(order) = &self.order else {
            let start = batch * self.config.batch_size;
            let indices: Vec<usize> = lanes.map(|lane| start + lane).collect();
            let window = Arc::new(self.dataset.read(&indices)?);
            let drawn = (0..indices.len()).map(|index| Drawn {
                window: Arc::clone(&window),
                index,
            });
            return Ok(drawn.collect());
        };
        let draw = |lane: usize| {
            let known = self.windows.get(&lane);
            let known = known.filter(|(batches, _)| batches.contains(&batch));
            let (batches, window) = if let Some(known) = known {
                known.clone()
            } else {
                self.windows.remove(&lane); // frees it before the next is read
                let batches = order.window(lane, batch);
                let window = self.dataset.read(&order.images(lane, &batches))?;
                let loaded = (batches, Arc::new(window));
                self.windows.insert(lane, loaded.clone());
                loaded
            };
            let index = batch - batches.start;
            Ok(Drawn { window, index })
        };
        lanes.map(draw).collect()
    }
}

impl Iterator for Stream {
    type Item = Result<Vec<Drawn>>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batch;
        let done = batch.checked_mul(self.config.batch_size)?;
        let left = self.dataset.len().checked_sub(done)?;
        if left == 0 {
            return None;
        }
        self.batch += 1;
        Some(self.draw(batch, left.min(self.config.batch_size)))
    }
}
