//! The pictures that a model is judged by.

use std::collections::HashSet;

use perceiver_data::{DataError, Dataset, Image, LoadOptions, Pictures, Source, Split};

use crate::checkpoint_config::DataCard;
use crate::error::Result;
use crate::ranks::Ranks;
use crate::survey::Surveys;

/// The test split of a data set, or its first `limit` pictures, for a model of these classes: labels are matched by name, so that they mean
/// the same to both, whatever order the split has its classes in. The ranks share out what can be; all have to ask.
///
/// # Errors
/// Whatever is wrong with the data, [`DataError::OtherClasses`] when there are images of a class that the model does not have, or when a
/// rank has gone.
pub fn test_pictures(
    source: &Source,
    options: &LoadOptions,
    limit: Option<usize>,
    classes: &[String],
    ranks: &dyn Ranks,
) -> Result<Pictures> {
    let limit = limit.unwrap_or(usize::MAX);
    if let Source::Shards { .. } = source {
        let folder = source.shard_folder(options)?;
        let mut test = folder.split_of_classes(Split::Test, options.shorter_side, classes)?;
        test.truncate(limit);
        let (test, _) = Surveys::default().surveyed(test, options, ranks)?;
        return Ok(test.into());
    }
    let mut test = source.load_of_classes(Split::Test, options, classes)?;
    test.truncate(limit);
    Ok(test.into())
}

/// All images of a data set without splits, for a model of these classes that was not trained on it; none where the data set has splits, or the model
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
    classes: &[String],
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
    let mut whole = train.whole(test).with_classes(classes)?;
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
    let Some(source @ Source::Shards { .. }) = &card.dataset else {
        return false;
    };
    let shards = source.shard_folder(options);
    let Ok(shards) = shards.and_then(|shards| shards.split(Split::Train, options.shorter_side))
    else {
        return false;
    };
    let known: HashSet<_> = train.images().iter().map(Image::sha256).collect();
    let some = (0..shards.len()).step_by((shards.len() / FEW).max(1));
    let mut some = some.filter_map(|index| shards.image(index).ok());
    some.any(|image| known.contains(&image.sha256()))
}

/// The number of test images of every class, told from files and labels before anything is learned, so that a run does not end in an
/// error about its test split. No image of it is read.
///
/// # Errors
/// What is wrong with the split as far as that tells, and when there is no image.
pub(crate) fn count_test_images(
    source: &Source,
    options: &LoadOptions,
    classes: &[String],
) -> Result<Vec<usize>> {
    let counts = source.count_of_classes(Split::Test, options, classes)?;
    if counts.iter().all(|&count| count == 0) {
        return Err(DataError::Inconsistent {
            name: source.to_string(),
            expected: "at least one image in the test split".to_string(),
            found: "none".to_string(),
        }
        .into());
    }
    Ok(counts)
}
