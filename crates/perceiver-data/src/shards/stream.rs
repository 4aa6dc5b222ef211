//! The pictures of an epoch's batches as they come from the shards, with no more in memory than the windows they are drawn from.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use perceiver_ops::Key;

use crate::error::Result;
use crate::loader::LoaderConfig;
use crate::shards::order::Order;
use crate::shards::streamed::{Encoded, Streamed};

/// A picture, and those it was shuffled with.
#[derive(Debug)]
pub(crate) struct Drawn {
    window: Arc<Vec<Encoded>>,
    place: usize,
}

impl Drawn {
    pub(crate) fn picture(&self) -> &Encoded {
        &self.window[self.place]
    }

    /// What it may be mixed with: a function of seed and epoch, as it is.
    pub(crate) fn window(&self) -> &[Encoded] {
        &self.window
    }
}

/// Goes through the batches of an epoch, of each the part that is wanted.
pub(crate) struct Stream {
    pictures: Arc<Streamed>,
    config: LoaderConfig,
    /// None where pictures come in the order of the shards.
    order: Option<Order>,
    batch: usize,
    /// What is read of each lane, and for which batches.
    windows: HashMap<usize, (Range<usize>, Arc<Vec<Encoded>>)>,
}

impl Stream {
    pub(crate) fn new(
        pictures: Arc<Streamed>,
        config: &LoaderConfig,
        epoch: usize,
        first_batch: usize,
    ) -> Self {
        let key = Key::new(config.seed)
            .fold_in_name("shuffle")
            .fold_in(epoch as u64);
        let order = config.shuffle.then(|| {
            let shards = pictures.by_shard();
            Order::new(&shards, config.batch_size, config.shuffle_buffer, key)
        });
        Self {
            pictures,
            config: config.clone(),
            order,
            batch: first_batch,
            windows: HashMap::new(),
        }
    }

    /// Those of this part of a batch of `len`.
    fn draw(&mut self, batch: usize, len: usize) -> Result<Vec<Drawn>> {
        let lanes = self.config.part.range(len);
        let Some(order) = &self.order else {
            let start = batch * self.config.batch_size;
            let indices: Vec<usize> = lanes.map(|lane| start + lane).collect();
            let window = Arc::new(self.pictures.read(&indices)?);
            let drawn = (0..indices.len()).map(|place| Drawn {
                window: Arc::clone(&window),
                place,
            });
            return Ok(drawn.collect());
        };
        let draw = |lane: usize| {
            let known = self.windows.get(&lane);
            let known = known.filter(|(batches, _)| batches.contains(&batch));
            let (batches, window) = if let Some(known) = known {
                known.clone()
            } else {
                self.windows.remove(&lane); // before there is another
                let batches = order.window(lane, batch);
                let window = self.pictures.read(&order.pictures(lane, &batches))?;
                let loaded = (batches, Arc::new(window));
                self.windows.insert(lane, loaded.clone());
                loaded
            };
            let place = batch - batches.start;
            Ok(Drawn { window, place })
        };
        lanes.map(draw).collect()
    }
}

impl Iterator for Stream {
    type Item = Result<Vec<Drawn>>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batch;
        let done = batch.checked_mul(self.config.batch_size)?;
        let left = self.pictures.len().checked_sub(done)?;
        if left == 0 {
            return None;
        }
        self.batch += 1;
        Some(self.draw(batch, left.min(self.config.batch_size)))
    }
}
