//! Reads the test split that a model is evaluated on.

use std::collections::HashSet;

use perceiver_data::{DataError, Dataset, Image, LoadOptions, Samples, Source, Split};

use crate::checkpoint::config::DataCard;
use crate::data::shard_survey::Surveys;
use crate::distributed::Communicator;
use crate::error::Result;

/// Reads the test split of a data set, or its first `limit` images, for a model with these classes.
/// Labels are matched by class name, whatever order the split has its classes in. The ranks divide
/// the work where possible; all have to call this.
///
/// # Errors
/// [`DataError::OtherClasses`] when there are images of a class that the model does not have; any
/// other error of the data; and when a rank has gone.
pub fn test_samples(
    source: &Source,
    options: &LoadOptions,
    limit: Option<usize>,
    classes: &[String],
    ranks: &dyn Communicator,
) -> Result<Samples> {
    if let Source::Shards { .. } = source {
        let folder = source.shard_folder(options)?;
        let mut test = folder.split_of_classes(Split::Test, options.shorter_side, classes)?;
        test.truncate(limit.unwrap_or(usize::MAX));
        let (test, _) = Surveys::default().surveyed(test, options, ranks)?;
        return Ok(test.into());
    }
    let options = LoadOptions {
        limit,
        ..options.clone()
    };
    let test = source.load_of_classes(Split::Test, &options, classes)?;
    Ok(test.into())
}

/// Reads all images of a data set without splits, for a model with these classes that was not
/// trained on it. None if the data set has splits, or if the model was trained on it: then only the
/// test split that was held out is meaningful.
///
/// A model counts as trained on the data set in three cases: the data set lies where the training
/// data did; the training images that `options` draw have the hash in `card`, wherever they lie
/// now; or the model was trained on shards with images of this data set.
///
/// # Errors
/// Any error of the data.
pub fn all_samples(
    source: &Source,
    options: &LoadOptions,
    limit: Option<usize>,
    classes: &[String],
    card: &DataCard,
) -> Result<Option<Samples>> {
    let is_own = |own: &Source| own.is_same_location(source);
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

/// Returns whether these images, or the first of them, are those that a model was trained on.
fn is_trained_on(train: &Dataset, card: &DataCard) -> bool {
    if card.train_sha256.is_empty() || card.train_images > train.len() {
        return false;
    }
    train.sha256_of_first(card.train_images) == card.train_sha256
}

/// Returns whether a few training images of the shards that a model was trained on are among these.
/// False if the shards are missing.
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

/// Counts the test images of every class from files and labels, without reading an image. It runs
/// before training, so that a run does not end in an error about its test split.
///
/// # Errors
/// Errors of the split that files and labels show, and when it has no image.
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
