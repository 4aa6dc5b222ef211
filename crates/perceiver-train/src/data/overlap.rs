//! Train-test leakage: counts images that two data sets share, by the hash of their pixels.

use std::collections::HashSet;

use perceiver_data::{LoadOptions, Samples, Source, Split};
use rayon::prelude::*;

use crate::checkpoint::Checkpoint;
use crate::data::TrainingData;
use crate::data::test_split::test_samples;
use crate::distributed::SingleProcess;
use crate::error::Result;
use crate::recipe::Recipe;

/// The overlap of a run's data with the test images of its initial checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedImages {
    /// The number of test images that the run trains or validates on.
    pub shared: u64,
    /// The number of the checkpoint's test images.
    pub test: u64,
    /// The split seed that splits the data set as it was split for the checkpoint, if both use the
    /// same folder.
    pub split_seed: Option<u64>,
}

impl TrainingData {
    /// Counts the test images of `checkpoint` that are training or validation images here. None if
    /// its data set is unknown, not on this machine, or generated rather than stored in files.
    ///
    /// # Errors
    /// When the checkpoint's test images cannot be read.
    pub fn shared_with_test_of(
        &self,
        checkpoint: &Checkpoint,
        recipe: &Recipe,
    ) -> Result<Option<SharedImages>> {
        let card = &checkpoint.config.data;
        let Some(source) = &card.dataset else {
            return Ok(None);
        };
        let mut options = recipe.load_options();
        let is_same = source.is_same_location(&recipe.data.dataset);
        let is_drawn = is_drawn(source, &options)?;
        if is_same && (!is_drawn || options.seed == card.split_seed()) {
            let nothing = SharedImages {
                shared: 0,
                test: 0,
                split_seed: None,
            };
            return Ok(Some(nothing));
        }
        if *source == Source::Shapes || !source.is_present(&options.data_dir) {
            return Ok(None);
        }
        options.labels = card.labels;
        options.seed = card.split_seed();
        let test = test_samples(
            source,
            &options,
            card.limit_test,
            &checkpoint.config.classes,
            &SingleProcess,
        )?;
        let hashes: HashSet<_> = hashes(&test)?.into_iter().collect();
        let mut shared = HashSet::new();
        for part in [&self.train, &self.validation] {
            let own = self::hashes(part)?.into_iter();
            shared.extend(own.filter(|hash| hashes.contains(hash)));
        }
        Ok(Some(SharedImages {
            shared: shared.len() as u64,
            test: hashes.len() as u64,
            split_seed: is_same.then(|| card.split_seed()),
        }))
    }
}

/// Returns whether a seed draws the test split of the source.
fn is_drawn(source: &Source, options: &LoadOptions) -> Result<bool> {
    let Source::Folder(root) = source else {
        return Ok(false);
    };
    if !root.is_dir() {
        return Ok(false);
    }
    let listing = source.listing(options)?;
    Ok(listing.is_some_and(|listing| !listing.has(Split::Test)))
}

fn hashes(samples: &Samples) -> Result<Vec<[u8; 32]>> {
    let indices = (0..samples.len()).into_par_iter();
    let hashes = indices.map(|index| match samples {
        Samples::InMemory(data) => Ok(data.images()[index].sha256()),
        _ => Ok(samples.image(index)?.sha256()),
    });
    hashes.collect()
}
