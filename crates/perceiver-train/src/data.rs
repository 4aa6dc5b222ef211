//! Training data: the training and validation splits of a data set, normalization, class names,
//! content hash.

pub(crate) mod overlap;
pub(crate) mod shard_survey;
pub(crate) mod test_split;

use std::sync::Arc;
use std::time::{Duration, Instant};

use perceiver_data::{
    ChannelSums, DataError, FolderListing, LoadOptions, Normalization, Preprocessing,
    ProgressCallback, Samples, Source, Split,
};
use perceiver_model::Architecture;

use crate::data::shard_survey::Surveys;
use crate::data::test_split::count_test_images;
use crate::distributed::{Communicator, SingleProcess};
use crate::error::Result;
use crate::recipe::Recipe;

/// Training and validation data of a run, with their description.
#[derive(Clone, Debug)]
pub struct TrainingData {
    /// The training samples.
    pub train: Samples,
    /// The validation samples: the data set's own validation split, or else a part of the training
    /// split, chosen by the recipe's `data.validation_split`; of shards, a share drawn by the split
    /// seed.
    pub validation: Samples,
    /// The preprocessing of images. Unless the recipe sets it, the normalization is computed on all
    /// training images, including those cut off for validation, as in the Keras example.
    pub preprocessing: Preprocessing,
    /// The hash of the training and validation samples together.
    pub sha256: String,
    /// The source of the data, recorded in the run and its checkpoint.
    pub source: Source,
    /// The number of test images of every class, as far as files and labels tell; none for data
    /// that was in memory.
    pub test_counts: Option<Vec<usize>>,
    /// The surveys of shards, to be kept in the run directory.
    pub surveys: Surveys,
    /// The files of a folder when it was read: the run is evaluated on the files of its test split.
    pub listing: Option<Arc<FolderListing>>,
    /// The number of test images of the initial checkpoint that are among these images; none if
    /// unknown.
    pub init_overlap: Option<u64>,
    /// The time it took to read the data; zero for data that was in memory.
    pub loading: Duration,
}

impl TrainingData {
    /// Reads the training split of a recipe. Of the test split, it checks files and labels but
    /// reads no image.
    ///
    /// # Errors
    /// When either split is invalid, or the training or validation part would be empty.
    pub fn load(recipe: &Recipe) -> Result<Self> {
        Self::load_shared(
            recipe,
            &SingleProcess,
            &ProgressCallback::default(),
            Surveys::default(),
        )
    }

    /// [`TrainingData::load`] with the work divided between `ranks`, all of which have to call it.
    /// `watcher` receives the progress. Shards with a valid survey in `surveys` are not surveyed
    /// again.
    ///
    /// # Errors
    /// Those of [`TrainingData::load`], and when a rank has gone.
    pub fn load_shared(
        recipe: &Recipe,
        ranks: &dyn Communicator,
        watcher: &ProgressCallback,
        surveys: Surveys,
    ) -> Result<Self> {
        let start = Instant::now();
        let mut options = recipe.load_options();
        options.watcher = watcher.clone();
        let source = &recipe.data.dataset;
        options.listing = source.listing(&options)?;
        source.check(&options)?;
        if let Some(listing) = options.listing.as_ref().filter(|_| ranks.is_first()) {
            listing.log_summary();
        }
        let data = if let Source::Shards { .. } = source {
            Self::in_shards(recipe, &options, ranks, surveys)?
        } else {
            let limited = LoadOptions {
                limit: recipe.data.limit_train,
                ..options.clone()
            };
            let dataset = source.load(Split::Train, &limited)?;
            let own = recipe.data.uses_validation_split();
            let own =
                own.then(|| source.load_of_classes(Split::Validation, &options, dataset.classes()));
            let own = own.transpose()?.filter(|own| !own.is_empty());
            let own = own.map(Samples::from);
            let source = source.clone();
            Self::divide(dataset.into(), own, source, recipe, ranks, watcher)?
        };
        let loading = start.elapsed();
        let classes = data.train.classes();
        let test_counts = count_test_images(&recipe.data.dataset, &options, classes)?;
        Ok(Self {
            listing: options.listing,
            source: recipe.data.dataset.clone(),
            loading,
            test_counts: Some(test_counts),
            ..data
        })
    }

    /// Splits a program's own images into training and validation samples: a
    /// [`Dataset`](perceiver_data::Dataset) in memory,
    /// or [`Samples::map`]. The source is [`Source::Memory`] with the data set's name, whatever the
    /// recipe has: the run's files record that name, and
    /// [`Trainer::resume`](crate::Trainer::resume) needs the same data again.
    ///
    /// # Errors
    /// When one part would be empty or an image cannot be read.
    pub fn new(samples: impl Into<Samples>, recipe: &Recipe) -> Result<Self> {
        Self::of_program(samples.into(), None, recipe)
    }

    /// [`TrainingData::new`] with validation samples of the program's own, of the same classes.
    ///
    /// # Errors
    /// As for [`TrainingData::new`], and when the classes differ.
    pub fn with_validation(
        train: impl Into<Samples>,
        validation: impl Into<Samples>,
        recipe: &Recipe,
    ) -> Result<Self> {
        Self::of_program(train.into(), Some(validation.into()), recipe)
    }

    fn of_program(train: Samples, own: Option<Samples>, recipe: &Recipe) -> Result<Self> {
        if let Some(own) = own.as_ref().filter(|own| own.classes() != train.classes()) {
            return Err(DataError::Inconsistent {
                name: own.name().to_string(),
                expected: format!("validation images of the classes {:?}", train.classes()),
                found: format!("{:?}", own.classes()),
            }
            .into());
        }
        let source = Source::Memory(match train.name() {
            "" => "unnamed".to_string(),
            name => name.to_string(),
        });
        let watcher = ProgressCallback::default();
        Self::divide(train, own, source, recipe, &SingleProcess, &watcher)
    }

    /// Splits the validation part off, unless the data set has a validation split of its `own`.
    fn divide(
        mut train: Samples,
        own: Option<Samples>,
        source: Source,
        recipe: &Recipe,
        ranks: &dyn Communicator,
        watcher: &ProgressCallback,
    ) -> Result<Self> {
        let labels = (0..train.len()).map(|index| train.label(index));
        require_two_classes(train.name(), train.classes(), labels)?;
        if let Some(limit) = recipe.data.limit_train {
            train = train.truncated(limit);
        }
        let normalization = match &recipe.data.normalization {
            Some(given) => given.clone(),
            None => normalization(&train, ranks, watcher)?,
        };
        let mut sha256 = train.sha256();
        let (train, validation) = match own {
            None => {
                let fraction = recipe.data.validation_fraction;
                let seed = recipe.load_options().seed;
                if recipe.data.stratifies(&source) {
                    train.split_stratified(fraction, seed)
                } else {
                    train.split_tail(fraction)
                }
            }
            Some(own) => {
                log_own_validation(own.name(), own.len(), ranks);
                sha256 = format!("{sha256}+{}", own.sha256());
                (train, own)
            }
        };
        let data = Self {
            train,
            validation,
            preprocessing: preprocessing(recipe, normalization)?,
            sha256,
            source,
            test_counts: None,
            surveys: Surveys::default(),
            listing: None,
            init_overlap: None,
            loading: Duration::ZERO,
        };
        data.with_both_parts()
    }

    /// Reads and surveys shards; each rank surveys its part.
    fn in_shards(
        recipe: &Recipe,
        options: &LoadOptions,
        ranks: &dyn Communicator,
        mut surveys: Surveys,
    ) -> Result<Self> {
        let folder = recipe.data.dataset.shard_folder(options)?;
        if ranks.is_first() && folder.is_tested_by_validation() {
            tracing::info!(
                "{}: no test split: its validation split is used as the test split, and part of the training images for validation",
                folder.name()
            );
        }
        let mut train = folder.split(Split::Train, options.shorter_side)?;
        require_two_classes(train.name(), train.classes(), train.labels())?;
        train.truncate(recipe.data.limit_train.unwrap_or(usize::MAX));
        let (train, survey) = surveys.surveyed(train, options, ranks)?;
        let normalization = match &recipe.data.normalization {
            Some(given) => given.clone(),
            None => Normalization::of_sums(survey.sums(), train.name())?,
        };
        let mut sha256 = train.sha256().to_string();
        let own = folder.has_validation() && recipe.data.uses_validation_split();
        let (train, validation) = if own {
            let validation = folder.split_of_classes(
                Split::Validation,
                options.shorter_side,
                train.classes(),
            )?;
            let (validation, _) = surveys.surveyed(validation, options, ranks)?;
            log_own_validation(validation.name(), validation.len(), ranks);
            sha256 = format!("{sha256}+{}", validation.sha256());
            (train, validation)
        } else {
            train.split_drawn(recipe.data.validation_fraction, options.seed)
        };
        let data = Self {
            train: train.into(),
            validation: validation.into(),
            preprocessing: preprocessing(recipe, normalization)?,
            sha256,
            source: recipe.data.dataset.clone(),
            test_counts: None,
            surveys,
            listing: None,
            init_overlap: None,
            loading: Duration::ZERO,
        };
        data.with_both_parts()
    }

    fn with_both_parts(self) -> Result<Self> {
        let Self {
            train, validation, ..
        } = &self;
        if train.is_empty() || validation.is_empty() {
            return Err(DataError::Inconsistent {
                name: train.name().to_string(),
                expected: "at least one image each for training and for validation".to_string(),
                found: format!("{} and {}", train.len(), validation.len()),
            }
            .into());
        }
        Ok(self)
    }

    /// Returns whether [`TrainingData::load`] reads the same data for both recipes, so that one
    /// read serves both.
    pub fn is_shared(one: &Recipe, other: &Recipe) -> bool {
        let read = |recipe: &Recipe| {
            let mut options = recipe.load_options();
            // CIFAR and the shapes have a fixed order; the seed shuffles folders and the Hub's data
            // sets.
            let ordered = matches!(
                recipe.data.dataset,
                Source::Cifar100 | Source::Cifar10 | Source::Shapes
            );
            options.seed = if ordered { 0 } else { options.seed };
            options
        };
        let (a, b) = (&one.data, &other.data);
        a.dataset == b.dataset
            && a.limit_train == b.limit_train
            && a.validation_fraction.to_bits() == b.validation_fraction.to_bits()
            && a.uses_validation_split() == b.uses_validation_split()
            && a.stratifies(&a.dataset) == b.stratifies(&b.dataset)
            && a.antialias == b.antialias
            && a.fit == b.fit
            && a.transformers_preprocessing == b.transformers_preprocessing
            && a.normalization == b.normalization
            && one.model.image_size() == other.model.image_size()
            && read(one) == read(other)
    }

    /// Returns the number of training images, validation included.
    pub fn len(&self) -> usize {
        self.train.len() + self.validation.len()
    }

    /// Returns whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn preprocessing(recipe: &Recipe, normalization: Normalization) -> Result<Preprocessing> {
    let image_size = recipe.model.image_size();
    if let Some(steps) = &recipe.data.transformers_preprocessing {
        return Ok(Preprocessing::from_transformers(
            steps.for_size(image_size),
        )?);
    }
    Ok(Preprocessing {
        image_size,
        antialias: recipe.data.antialias,
        fit: recipe.data.fit,
        normalization,
        transformers: None,
    })
}

/// Checks that there are at least two classes.
fn require_two_classes(
    name: &str,
    classes: &[String],
    mut labels: impl Iterator<Item = u32>,
) -> Result<()> {
    let first = labels.next();
    if first.is_none() || labels.any(|label| Some(label) != first) {
        return Ok(());
    }
    let only = first.and_then(|label| classes.get(label as usize));
    Err(DataError::Inconsistent {
        name: name.to_string(),
        expected: "training images of at least two classes".to_string(),
        found: format!("one class, {:?}", only.map_or("", String::as_str)),
    }
    .into())
}

fn log_own_validation(name: &str, images: usize, ranks: &dyn Communicator) {
    if ranks.is_first() {
        tracing::info!("{name}: validating on the {images} images of its own validation split");
    }
}

/// Computes the normalization over all images; each rank sums up its part.
fn normalization(
    samples: &Samples,
    ranks: &dyn Communicator,
    watcher: &ProgressCallback,
) -> Result<Normalization> {
    let part = ranks.part().range(samples.len());
    let mut numbers = samples.channel_sums(part, watcher)?.to_numbers();
    ranks.all_reduce_f64(&mut numbers)?;
    let sums = ChannelSums::from_numbers(&numbers);
    Ok(Normalization::of_sums(&sums, samples.name())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_are_shared_by_recipes_that_read_and_prepare_the_same() {
        let recipe = |text: &str| {
            let layers = [("test", text)];
            Recipe::from_layers(&layers).unwrap()
        };
        let shapes = recipe("data.dataset = 'shapes'");
        for same in [
            "training.seed = 1",
            "training.epochs = 3",
            "data.augmentation.zoom = 0.5",
            "data.limit_test = 3",
        ] {
            let other = recipe(&format!("data.dataset = 'shapes'\n{same}"));
            assert!(TrainingData::is_shared(&shapes, &other), "{same}");
        }
        for different in [
            "data.labels = 'coarse'",
            "data.limit_train = 100",
            "data.antialias = true",
            "data.fit = 'crop'",
            "data.broken_images = 'refuse'",
            "data.normalization = { mean = [0.0, 0.0, 0.0], variance = [1.0, 1.0, 1.0] }",
            "data.validation_fraction = 0.2",
            "data.use_validation_split = false",
            "data.validation_split = 'stratified'",
            "model.image_size = 32",
        ] {
            let other = recipe(&format!("data.dataset = 'shapes'\n{different}"));
            assert!(!TrainingData::is_shared(&shapes, &other), "{different}");
        }
        let folder = |seed: &str| recipe(&format!("data.dataset = 'folder:a'\n{seed}"));
        let seed = folder("training.seed = 1");
        assert!(TrainingData::is_shared(&folder(""), &seed));
        let split_seed = folder("data.split_seed = 1");
        assert!(!TrainingData::is_shared(&folder(""), &split_seed));
    }
}
