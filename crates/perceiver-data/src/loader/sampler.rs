//! The sampler of an epoch: in the order of the data set, shuffled, or balanced by class.
//!
//! The class-balanced sampler goes round by round: a round has one image of every class that
//! occurs, in random order. Each class goes through its images in random order, and again in
//! another one when all of them were used. So the classes are equally frequent up to one, in the
//! epoch and in any part from its beginning.
//!
//! All orders are functions of `(seed, epoch)`: ranks agree on them, and an epoch can begin at any
//! batch.

use std::collections::BTreeMap;

use perceiver_ops::RngKey;

use crate::dataset::part::Part;
use crate::loader::config::LoaderConfig;
use crate::loader::shuffle::shuffle;

/// One image of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Its index in the data set.
    pub(crate) index: usize,
    /// How many times the epoch had it before, so that it is augmented differently each time.
    pub(crate) repeat: usize,
}

impl Sample {
    /// Creates a sample whose image occurs once.
    pub(crate) fn once(index: usize) -> Self {
        Self { index, repeat: 0 }
    }
}

/// The samples of an epoch, in order.
pub(crate) struct EpochOrder {
    pub(crate) epoch: usize,
    samples: Vec<Sample>,
    balanced: bool,
    batch_size: usize,
    part: Part,
}

impl EpochOrder {
    /// Draws the order of an epoch over images with these labels.
    pub(crate) fn new(
        config: &LoaderConfig,
        labels: impl ExactSizeIterator<Item = u32>,
        epoch: usize,
    ) -> Self {
        let key = RngKey::new(config.seed)
            .fold_in_name("shuffle")
            .fold_in(epoch as u64);
        let samples = if config.balanced {
            balanced(labels, key.fold_in_name("balanced"))
        } else {
            let mut samples: Vec<Sample> = (0..labels.len()).map(Sample::once).collect();
            if config.shuffle {
                shuffle(&mut samples, key);
            }
            samples
        };
        Self {
            epoch,
            samples,
            balanced: config.balanced,
            batch_size: config.batch_size,
            part: config.part,
        }
    }

    /// Returns the number of batches.
    pub(crate) fn num_batches(&self) -> usize {
        self.samples.len().div_ceil(self.batch_size)
    }

    /// Returns this rank's samples of a batch, which must be below [`EpochOrder::num_batches`].
    pub(crate) fn batch(&self, batch: usize) -> &[Sample] {
        let rest = &self.samples[batch * self.batch_size..];
        let whole = &rest[..rest.len().min(self.batch_size)];
        &whole[self.part.range(whole.len())]
    }

    /// Returns the index of the image that others are mixed with if they draw `number` of as many
    /// as there are images. It is balanced by class if the epoch is.
    pub(crate) fn partner(&self, number: usize) -> usize {
        if self.balanced {
            self.samples[number].index
        } else {
            number
        }
    }
}

/// Draws as many samples as there are labels, with every class that occurs equally often.
fn balanced(labels: impl ExactSizeIterator<Item = u32>, key: RngKey) -> Vec<Sample> {
    let count = labels.len();
    let mut classes: Vec<(u32, Vec<usize>)> = by_class(labels).into_iter().collect();
    let mut samples = Vec::with_capacity(count);
    for round in 0.. {
        let left = count - samples.len();
        if left == 0 {
            break;
        }
        let order = key.fold_in_name("classes").fold_in(round as u64);
        shuffle(&mut classes, order);
        for (class, images) in classes.iter_mut().take(left) {
            let (repeat, at) = (round / images.len(), round % images.len());
            if at == 0 {
                let order = key.fold_in_name("images").fold_in(u64::from(*class));
                shuffle(images, order.fold_in(repeat as u64));
            }
            let index = images[at];
            samples.push(Sample { index, repeat });
        }
    }
    samples
}

/// Returns the indices of the images of every class that occurs.
fn by_class(labels: impl Iterator<Item = u32>) -> BTreeMap<u32, Vec<usize>> {
    let mut by_class: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (index, label) in labels.enumerate() {
        by_class.entry(label).or_default().push(index);
    }
    by_class
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::hash::Hash;

    use proptest::prelude::*;

    use super::*;

    fn config(seed: u64, batch_size: usize) -> LoaderConfig {
        LoaderConfig {
            seed,
            batch_size,
            balanced: true,
            ..LoaderConfig::default()
        }
    }

    fn order(labels: &[u32], config: &LoaderConfig, epoch: usize) -> EpochOrder {
        EpochOrder::new(config, labels.iter().copied(), epoch)
    }

    fn batches(order: &EpochOrder) -> Vec<Vec<Sample>> {
        let batches = 0..order.num_batches();
        batches.map(|batch| order.batch(batch).to_vec()).collect()
    }

    fn counts<T: Eq + Hash>(items: impl Iterator<Item = T>) -> HashMap<T, usize> {
        let mut counts = HashMap::new();
        for item in items {
            *counts.entry(item).or_default() += 1;
        }
        counts
    }

    /// Returns the difference of the largest and the smallest count.
    fn spread(counts: impl Iterator<Item = usize> + Clone) -> usize {
        counts.clone().max().unwrap_or(0) - counts.min().unwrap_or(0)
    }

    proptest! {
        /// Labels with gaps, and of very different frequency.
        #[test]
        fn classes_and_the_images_of_each_are_equally_frequent(
            labels in prop::collection::vec(prop_oneof![8 => Just(4_u32), 1 => 0_u32..9], 0..120),
            seed: u64, epoch in 0_usize..4, batch_size in 1_usize..20,
        ) {
            let samples = batches(&order(&labels, &config(seed, batch_size), epoch)).concat();
            prop_assert_eq!(samples.len(), labels.len());
            let of_classes = counts(labels.iter());
            for end in 0..=samples.len() {
                let drawn = counts(samples[..end].iter().map(|sample| &labels[sample.index]));
                let frequencies = of_classes.keys().map(|class| drawn.get(class).copied().unwrap_or(0));
                prop_assert!(spread(frequencies) <= 1, "{drawn:?}");
                // No image is repeated before all of its class were used.
                let of_images = counts(samples[..end].iter().map(|sample| sample.index));
                for class in of_classes.keys() {
                    let images = (0..labels.len()).filter(|&index| labels[index] == **class);
                    let frequencies = images.map(|index| of_images.get(&index).copied().unwrap_or(0));
                    prop_assert!(spread(frequencies) <= 1, "{of_images:?}");
                }
            }
            let mut seen: HashMap<usize, usize> = HashMap::new();
            for sample in samples {
                let repeat = seen.entry(sample.index).or_default();
                prop_assert_eq!(sample.repeat, *repeat);
                *repeat += 1;
            }
        }

        #[test]
        fn parts_form_the_batches_of_the_whole(
            labels in prop::collection::vec(0_u32..5, 0..60), seed: u64, batch_size in 1_usize..20, of in 1_usize..6,
        ) {
            let whole = config(seed, batch_size);
            let expected = batches(&order(&labels, &whole, 1));
            let mut joined = vec![Vec::new(); expected.len()];
            for index in 0..of {
                let part = LoaderConfig { part: Part { index, of }, ..whole.clone() };
                for (joined, part) in joined.iter_mut().zip(batches(&order(&labels, &part, 1))) {
                    joined.extend(part);
                }
            }
            prop_assert_eq!(joined, expected);
        }
    }

    #[test]
    fn seeds_and_epochs_have_their_own_order() {
        let labels: Vec<u32> = (0..60).map(|index| u32::from(index % 6 == 0)).collect();
        let drawn = |seed, epoch| batches(&order(&labels, &config(seed, 7), epoch)).concat();
        assert_eq!(drawn(3, 2), drawn(3, 2));
        assert_ne!(drawn(3, 2), drawn(3, 1));
        assert_ne!(drawn(3, 2), drawn(4, 2));
        // A part of the frequent class is drawn, another one in each epoch.
        let frequent = |epoch| {
            let samples = drawn(3, epoch);
            let mut images: Vec<usize> = samples.iter().map(|sample| sample.index).collect();
            images.retain(|index| labels[*index] == 0);
            images.sort_unstable();
            images
        };
        assert_eq!(frequent(0).len(), 30);
        assert_ne!(frequent(0), frequent(1));
    }

    /// Otherwise a batch would often begin with the same class.
    #[test]
    fn every_round_has_its_own_order_of_the_classes() {
        let labels: Vec<u32> = (0..400).map(|index| index % 4).collect();
        let samples = batches(&order(&labels, &config(0, 4), 0));
        let first = counts(samples.iter().map(|round| labels[round[0].index]));
        assert!(
            (0..4).all(|class| (10..40).contains(&first[&class])),
            "{first:?}"
        );
    }
}
