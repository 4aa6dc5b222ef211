//! From a data set to what a run needs of it: training and validation parts, normalization, class names, a hash.

use std::path::Path;
use std::time::{Duration, Instant};

use perceiver_data::{
    ChannelSums, DataError, Dataset, LoadOptions, Normalization, Pictures, Preprocessing,
    ShardFolder, Source, Split, Watcher,
};

use crate::error::Result;
use crate::ranks::{Alone, Ranks};
use crate::recipe::Recipe;
use crate::survey::Surveys;

/// The training split, divided and described.
#[derive(Clone, Debug)]
pub struct TrainingData {
    /// What to learn from.
    pub train: Pictures,
    /// What choices are made by: the tail, or of shards a share drawn by the seed, or shards of their own.
    pub validation: Pictures,
    /// How pictures become input; normalized by all training pictures, validation included, as the example does, where the
    /// recipe has no other normalization.
    pub preprocessing: Preprocessing,
    /// The hash of both parts together.
    pub sha256: String,
    /// Where the data came from, which the run and its checkpoint say.
    pub source: Source,
    /// What was found in shards, for the run to keep.
    pub surveys: Surveys,
    /// How long it took to read; nothing where it was made of what was there.
    pub loading: Duration,
}

impl TrainingData {
    /// Reads the recipe's training split. The test split is only looked at from outside.
    ///
    /// # Errors
    /// When either split is not what it should be, or one part would be empty.
    pub fn load(recipe: &Recipe) -> Result<Self> {
        Self::load_shared(recipe, &Alone, &Watcher::default(), Surveys::default())
    }

    /// [`TrainingData::load`], with the work that can be shared out between `ranks`, all of which have to load it; `watcher` is told how
    /// far it is. Shards that `surveys` are of are not looked through again.
    ///
    /// # Errors
    /// Those of [`TrainingData::load`], and when a rank has gone.
    pub fn load_shared(
        recipe: &Recipe,
        ranks: &dyn Ranks,
        watcher: &Watcher,
        surveys: Surveys,
    ) -> Result<Self> {
        let start = Instant::now();
        let mut options = recipe.load_options();
        options.watcher = watcher.clone();
        recipe.data.dataset.check(&options)?;
        let data = match &recipe.data.dataset {
            Source::Shards(root) => Self::in_shards(root, recipe, &options, ranks, surveys)?,
            source => {
                let dataset = source.load(Split::Train, &options)?;
                Self::divide(dataset, recipe, ranks, watcher)?
            }
        };
        Ok(Self {
            loading: start.elapsed(),
            source: recipe.data.dataset.clone(),
            ..data
        })
    }

    /// Divides a data set that is in memory as the recipe says. Its source is [`Source::Memory`] with the data set's name, whatever the
    /// recipe has: the run's files say so, and [`Trainer::resume`](crate::Trainer::resume) wants the same data again.
    ///
    /// # Errors
    /// When one part would be empty.
    pub fn new(dataset: Dataset, recipe: &Recipe) -> Result<Self> {
        Self::divide(dataset, recipe, &Alone, &Watcher::default())
    }

    fn divide(
        mut dataset: Dataset,
        recipe: &Recipe,
        ranks: &dyn Ranks,
        watcher: &Watcher,
    ) -> Result<Self> {
        if let Some(limit) = recipe.data.limit_train {
            dataset.truncate(limit);
        }
        let normalization = match &recipe.data.normalization {
            Some(given) => given.clone(),
            None => normalization(&dataset, ranks, watcher)?,
        };
        let sha256 = dataset.sha256();
        let source = Source::Memory(match dataset.name() {
            "" => "unnamed".to_string(),
            name => name.to_string(),
        });
        let (train, validation) = dataset.split_tail(recipe.data.validation_fraction);
        let data = Self {
            train: train.into(),
            validation: validation.into(),
            preprocessing: preprocessing(recipe, normalization),
            sha256,
            source,
            surveys: Surveys::default(),
            loading: Duration::ZERO,
        };
        data.with_both_parts()
    }

    /// Looks through shards, of which each rank takes some.
    fn in_shards(
        root: &Path,
        recipe: &Recipe,
        options: &LoadOptions,
        ranks: &dyn Ranks,
        mut surveys: Surveys,
    ) -> Result<Self> {
        let folder = ShardFolder::open(root)?;
        let mut train = folder.split(Split::Train, options.shorter_side)?;
        train.truncate(recipe.data.limit_train.unwrap_or(usize::MAX));
        let (train, survey) = surveys.surveyed(train, options, ranks)?;
        let normalization = match &recipe.data.normalization {
            Some(given) => given.clone(),
            None => Normalization::of_sums(survey.sums(), train.name())?,
        };
        let mut sha256 = train.sha256().to_string();
        let (train, validation) = if folder.has_validation() {
            let validation = folder.validation(options.shorter_side)?;
            let (validation, _) = surveys.surveyed(validation, options, ranks)?;
            sha256 = format!("{sha256}+{}", validation.sha256());
            (train, validation)
        } else {
            train.split_drawn(recipe.data.validation_fraction, options.seed)
        };
        let data = Self {
            train: train.into(),
            validation: validation.into(),
            preprocessing: preprocessing(recipe, normalization),
            sha256,
            source: recipe.data.dataset.clone(),
            surveys,
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
                expected: "at least one picture each to train and to validate on".to_string(),
                found: format!("{} and {}", train.len(), validation.len()),
            }
            .into());
        }
        Ok(self)
    }

    /// Whether what [`TrainingData::load`] reads by one recipe is what it reads by another, to be read once for both.
    pub fn is_shared(one: &Recipe, other: &Recipe) -> bool {
        let read = |recipe: &Recipe| {
            let mut options = recipe.load_options();
            // CIFAR and the shapes stand in an order of their own; folders and the Hub's data sets in the seed's.
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
            && a.antialias == b.antialias
            && a.normalization == b.normalization
            && one.model.image_size == other.model.image_size
            && read(one) == read(other)
    }

    /// Training pictures, validation included.
    pub fn len(&self) -> usize {
        self.train.len() + self.validation.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn preprocessing(recipe: &Recipe, normalization: Normalization) -> Preprocessing {
    Preprocessing {
        image_size: recipe.model.image_size,
        antialias: recipe.data.antialias,
        normalization,
    }
}

/// The normalization by all pictures, of which each rank sums up its part.
fn normalization(dataset: &Dataset, ranks: &dyn Ranks, watcher: &Watcher) -> Result<Normalization> {
    let part = &dataset.images()[ranks.part().range(dataset.len())];
    let mut numbers = ChannelSums::of(part, watcher).to_numbers();
    ranks.all_reduce_f64(&mut numbers)?;
    let sums = ChannelSums::from_numbers(&numbers);
    Ok(Normalization::of_sums(&sums, dataset.name())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_are_shared_by_recipes_that_read_and_prepare_the_same() {
        let recipe = |text: &str| {
            let layers = [("test", toml::from_str(text).unwrap())];
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
            "data.broken_pictures = 'refuse'",
            "data.normalization = { mean = [0.0, 0.0, 0.0], variance = [1.0, 1.0, 1.0] }",
            "data.validation_fraction = 0.2",
            "model.image_size = 32",
        ] {
            let other = recipe(&format!("data.dataset = 'shapes'\n{different}"));
            assert!(!TrainingData::is_shared(&shapes, &other), "{different}");
        }
        let folder = |seed| {
            recipe(&format!(
                "data.dataset = 'folder:a'\ntraining.seed = {seed}"
            ))
        };
        assert!(!TrainingData::is_shared(&folder(0), &folder(1)));
    }
}
