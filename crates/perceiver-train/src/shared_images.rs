//! Images that are in two data sets, told by their pixels: a model that learned from another's test images does better on them than
//! on unseen ones.

use std::collections::HashSet;

use perceiver_data::{LoadOptions, Pictures, Source, Split};
use rayon::prelude::*;

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::ranks::Alone;
use crate::recipe::Recipe;
use crate::test_pictures::test_pictures;
use crate::training_data::TrainingData;

/// What a run learns from of the test images of the checkpoint that it begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedImages {
    /// The test images that the run trains or validates on.
    pub shared: u64,
    /// The checkpoint's test images.
    pub test: u64,
    /// The split seed that divides the data set as it was divided for the checkpoint, where both are the same folder.
    pub split_seed: Option<u64>,
}

impl TrainingData {
    /// How many test images of `checkpoint` are training or validation images here. None where its data set is not told, is not on
    /// this machine, or is drawn and in no files.
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
        let is_same = source.is_same_place(&recipe.data.dataset);
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
        let test = test_pictures(
            source,
            &options,
            card.limit_test,
            &checkpoint.config.classes,
            &Alone,
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

/// Whether a seed draws the source's test split.
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

fn hashes(pictures: &Pictures) -> Result<Vec<[u8; 32]>> {
    let indices = (0..pictures.len()).into_par_iter();
    let hashes = indices.map(|index| match pictures {
        Pictures::InMemory(data) => Ok(data.images()[index].sha256()),
        Pictures::Streamed(data) => Ok(data.image(index)?.sha256()),
    });
    hashes.collect()
}
