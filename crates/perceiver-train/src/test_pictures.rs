//! The pictures that a model is judged by.

use std::collections::HashSet;

use perceiver_data::{Dataset, Image, LoadOptions, Pictures, ShardFolder, Source, Split};

use crate::checkpoint_config::DataCard;
use crate::error::Result;
use crate::ranks::Ranks;
use crate::survey::Surveys;

/// The test split of a data set, or its first `limit` pictures. The ranks share out what can be; all have to ask.
///
/// # Errors
/// Whatever is wrong with the data, or when a rank has gone.
pub fn test_pictures(
    source: &Source,
    options: &LoadOptions,
    limit: Option<usize>,
    ranks: &dyn Ranks,
) -> Result<Pictures> {
    let limit = limit.unwrap_or(usize::MAX);
    if let Source::Shards(root) = source {
        source.check(options)?;
        let mut test = ShardFolder::open(root)?.split(Split::Test, options.shorter_side)?;
        test.truncate(limit);
        let (test, _) = Surveys::default().surveyed(test, options, ranks)?;
        return Ok(test.into());
    }
    let mut test = source.load(Split::Test, options)?;
    test.truncate(limit);
    Ok(test.into())
}

/// All images of a data set without splits, for a model that was not trained on it; none where the data set has splits, or the model
/// was: then only the test split that was kept from training tells something.
///
/// A model was trained on the data set if this lies where that did, if the training images that `options` draw are those of `card`
/// by their hash, wherever they lie now, or if it was trained on shards with images of this data set.
///
/// # Errors
/// Whatever is wrong with the data.
pub fn whole_pictures(
    source: &Source,
    options: &LoadOptions,
    limit: Option<usize>,
    card: &DataCard,
) -> Result<Option<Pictures>> {
    let is_own = |own: &Source| own.is_same_place(source);
    if card.dataset.as_ref().is_some_and(is_own) {
        return Ok(None);
    }
    let Some([train, test]) = source.load_parts(options)? else {
        return Ok(None);
    };
    if is_trained_on(&train, card) || are_in_shards(&train, options, card) {
        return Ok(None);
    }
    let mut whole = train.whole(test);
    whole.truncate(limit.unwrap_or(usize::MAX));
    Ok(Some(whole.into()))
}

/// Whether these images, or the first of them, are those that a model was trained on.
fn is_trained_on(train: &Dataset, card: &DataCard) -> bool {
    if card.train_sha256.is_empty() || card.train_images > train.len() {
        return false;
    }
    train.sha256_of_first(card.train_images) == card.train_sha256
}

/// Whether a few training images of the shards that a model was trained on are among these. Shards that are not there tell nothing.
fn are_in_shards(train: &Dataset, options: &LoadOptions, card: &DataCard) -> bool {
    const FEW: usize = 64;
    let Some(Source::Shards(root)) = &card.dataset else {
        return false;
    };
    let shards = ShardFolder::open(root);
    let Ok(shards) = shards.and_then(|shards| shards.split(Split::Train, options.shorter_side))
    else {
        return false;
    };
    let known: HashSet<_> = train.images().iter().map(Image::sha256).collect();
    let some = (0..shards.len()).step_by((shards.len() / FEW).max(1));
    let mut some = some.filter_map(|index| shards.image(index).ok());
    some.any(|image| known.contains(&image.sha256()))
}
