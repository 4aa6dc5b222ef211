//! The sample order of an epoch over shards: a function of seed, epoch, batch size and window,
//! independent of the number of ranks.
//!
//! The shards are concatenated in random order. The sequence is cut into as many lanes as a batch
//! has images, and image n of every batch comes from lane n, so a rank with its part of every batch
//! reads its own part of the shards. Within a lane, images are shuffled window by window: a window
//! is read at once, and the following batches take its images in random order. The first windows of
//! the lanes differ in length, so that lanes do not all read at the same time.

use std::ops::Range;

use perceiver_ops::RngKey;

use crate::loader::shuffle::shuffle;

/// The sample order of an epoch.
#[derive(Debug)]
pub(super) struct Order {
    /// For every shard, in the order of this epoch, its position in the sequence and its first
    /// image.
    shards: Vec<(usize, usize)>,
    len: usize,
    lanes: usize,
    /// The number of images of a lane that are shuffled together.
    window: usize,
    key: RngKey,
}

impl Order {
    /// Draws the order of the images of `shards`, consecutive ranges from 0, with `key`. `buffer`
    /// is the number of images in memory.
    pub(super) fn new(
        shards: &[Range<usize>],
        batch_size: usize,
        buffer: usize,
        key: RngKey,
    ) -> Self {
        let mut shuffled = shards.to_vec();
        shuffle(&mut shuffled, key.fold_in_name("shards"));
        let mut len = 0;
        let starts = shuffled.into_iter().map(|images| {
            let position = len;
            len += images.len();
            (position, images.start)
        });
        Self {
            shards: starts.collect(),
            len,
            lanes: batch_size,
            window: (buffer / batch_size).max(1),
            key: key.fold_in_name("windows"),
        }
    }

    /// Returns the positions of a lane in the sequence; the first lanes may have one more, for the
    /// last batch.
    fn lane(&self, lane: usize) -> Range<usize> {
        let (each, rest) = (self.len / self.lanes, self.len % self.lanes);
        let start = |lane: usize| lane * each + lane.min(rest);
        start(lane)..start(lane + 1)
    }

    /// Returns the window of a lane that contains `batch`: the batches whose images are shuffled
    /// together.
    pub(super) fn window(&self, lane: usize, batch: usize) -> Range<usize> {
        let first = 1 + lane * self.window / self.lanes;
        let (start, end) = if batch < first {
            (0, first)
        } else {
            let start = first + (batch - first) / self.window * self.window;
            (start, start + self.window)
        };
        start..end.min(self.lane(lane).len())
    }

    /// Returns the images of a window of a lane, in the order of its batches.
    pub(super) fn images(&self, lane: usize, window: &Range<usize>) -> Vec<usize> {
        let start = self.lane(lane).start;
        let positions = window.clone().map(|batch| start + batch);
        let mut images: Vec<usize> = positions.map(|position| self.image_at(position)).collect();
        let key = self.key.fold_in(lane as u64).fold_in(window.start as u64);
        shuffle(&mut images, key);
        images
    }

    /// Returns the image at a position in the sequence.
    fn image_at(&self, position: usize) -> usize {
        let after = self.shards.partition_point(|&(start, _)| start <= position);
        let (start, first) = self.shards[after - 1];
        first + (position - start)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(sizes: &[usize]) -> Vec<Range<usize>> {
        let mut end = 0;
        let ranges = sizes.iter().map(|size| {
            end += size;
            end - size..end
        });
        ranges.collect()
    }

    /// Returns the images of all batches, each drawn from the window of its lane.
    fn batches(order: &Order) -> Vec<Vec<usize>> {
        let batches = 0..order.len.div_ceil(order.lanes);
        let batch = |batch: usize| {
            let len = order.lanes.min(order.len - batch * order.lanes);
            let image = |lane| {
                let window = order.window(lane, batch);
                assert!(window.contains(&batch) && window.len() <= order.window);
                order.images(lane, &window)[batch - window.start]
            };
            (0..len).map(image).collect()
        };
        batches.map(batch).collect()
    }

    proptest! {
        #[test]
        fn every_image_occurs_once(
            sizes in prop::collection::vec(1_usize..30, 1..6), batch_size in 1_usize..12, buffer in 0_usize..60, seed: u64,
        ) {
            let order = Order::new(&ranges(&sizes), batch_size, buffer, RngKey::new(seed));
            let mut all = batches(&order).concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..sizes.iter().sum()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn epochs_differ_and_batches_mix_all_shards() {
        let shards = ranges(&[100; 10]);
        let order = |epoch| Order::new(&shards, 20, 400, RngKey::new(7).fold_in(epoch));
        let (first, second) = (batches(&order(0)), batches(&order(1)));
        assert_ne!(first, second);
        assert_eq!(first, batches(&order(0)));
        for batch in &first[..50] {
            let from = |shard: usize| batch.iter().filter(|&&p| p / 100 == shard).count();
            assert!((0..10).all(|shard| from(shard) == 2), "two lanes a shard");
        }
    }

    /// Otherwise lanes would wait for the disk together.
    #[test]
    fn windows_start_at_different_batches() {
        let order = Order::new(&ranges(&[1600]), 16, 16 * 16, RngKey::new(0));
        let begins = |batch| {
            (0..16)
                .filter(|&lane| order.window(lane, batch).start == batch)
                .count()
        };
        assert!((20..80).all(|batch| begins(batch) == 1));
    }
}
