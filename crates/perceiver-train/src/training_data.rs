//! From a data set to what a run needs of it: training and validation parts, normalization, class names, a hash.

use std::sync::Arc;

use perceiver_data::{DataError, Dataset, Normalization, Preprocessing, Split};

use crate::error::Result;
use crate::recipe::Recipe;

/// The training split, divided and described.
#[derive(Clone, Debug)]
pub struct TrainingData {
    /// What to learn from.
    pub train: Arc<Dataset>,
    /// The tail, which choices are made by.
    pub validation: Arc<Dataset>,
    /// How pictures become input; normalized by all training pictures, validation included, as the example does.
    pub preprocessing: Preprocessing,
    /// The hash of both parts together.
    pub sha256: String,
}

impl TrainingData {
    /// Reads the recipe's training split. The test split is only looked at from outside.
    ///
    /// # Errors
    /// When either split is not what it should be, or one part would be empty.
    pub fn load(recipe: &Recipe) -> Result<Self> {
        let options = recipe.load_options();
        recipe.data.dataset.check(&options)?;
        let dataset = recipe.data.dataset.load(Split::Train, &options)?;
        Self::new(dataset, recipe)
    }

    /// Divides a data set as the recipe says.
    ///
    /// # Errors
    /// When one part would be empty.
    pub fn new(mut dataset: Dataset, recipe: &Recipe) -> Result<Self> {
        if let Some(limit) = recipe.data.limit_train {
            dataset.truncate(limit);
        }
        let preprocessing = Preprocessing {
            image_size: recipe.model.image_size,
            antialias: recipe.data.antialias,
            normalization: Normalization::adapt(&dataset)?,
        };
        let sha256 = dataset.sha256();
        let (train, validation) = dataset.split_tail(recipe.data.validation_fraction);
        if train.is_empty() || validation.is_empty() {
            return Err(DataError::Inconsistent {
                name: train.name().to_string(),
                expected: "at least one picture each to train and to validate on".to_string(),
                found: format!("{} and {}", train.len(), validation.len()),
            }
            .into());
        }
        Ok(Self {
            train: Arc::new(train),
            validation: Arc::new(validation),
            preprocessing,
            sha256,
        })
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
