//! Validation of a recipe: every value that its type alone does not bound.

mod bounds;

use perceiver_data::Source;
use perceiver_model::{Architecture, ModelError};

use crate::error::Result;
use crate::recipe::layers::recipe_error;
use crate::recipe::{ClassWeighting, DataRecipe, Recipe, TrainingRecipe};

impl Recipe {
    /// Checks all values that their types alone do not bound.
    pub(crate) fn validate(&self, name: &str) -> Result<()> {
        let model = self.model.validate();
        model.map_err(|error| recipe_error(name, error))?;
        self.validate_values(name)
    }

    /// Checks all values of the recipe of a run, whose model may be one of another program's own.
    pub(crate) fn validate_read(&self, name: &str) -> Result<()> {
        match self.model.validate() {
            Ok(()) | Err(ModelError::UnknownModel { .. }) => self.validate_values(name),
            Err(error) => Err(recipe_error(name, error)),
        }
    }

    fn validate_values(&self, name: &str) -> Result<()> {
        let (data, training) = (&self.data, &self.training);
        data.augmentation
            .validate()
            .map_err(|error| recipe_error(name, error))?;
        if let Some(normalization) = &data.normalization {
            let valid = normalization.validate();
            valid.map_err(|error| recipe_error(name, format!("data.{error}")))?;
        }
        let finding = data.finding().or_else(|| training.finding());
        let finding = finding.or_else(|| self.sampler_finding());
        match finding.or_else(|| self.number_out_of_bounds()) {
            Some(finding) => Err(recipe_error(name, finding)),
            None => Ok(()),
        }
    }

    /// Returns the error of a balanced sampler on images that are streamed in their own order.
    fn sampler_finding(&self) -> Option<String> {
        let is_streamed = matches!(self.data.dataset, Source::Shards { .. });
        (is_streamed && self.training.balanced_sampler).then(|| {
            format!(
                "training.balanced_sampler: expected false for data.dataset = {}, which is streamed in the order of its \
                 shards, found true; training.class_weights = \"balanced\" works with shards",
                self.data.dataset
            )
        })
    }

    fn number_out_of_bounds(&self) -> Option<String> {
        match toml::Table::try_from(self) {
            Ok(table) => bounds::finding(&table),
            Err(error) => Some(error.to_string()),
        }
    }
}

impl DataRecipe {
    /// Returns the first invalid value, field first.
    fn finding(&self) -> Option<String> {
        let fraction_leaves_some =
            (0.0..1.0).contains(&self.validation_fraction) && self.validation_fraction > 0.0;
        first_finding([
            (
                fraction_leaves_some,
                format!(
                    "data.validation_fraction: expected above 0 and below 1, found {}",
                    self.validation_fraction
                ),
            ),
            (
                self.limit_train.is_none_or(|limit| limit >= 2),
                format!(
                    "data.limit_train: expected at least 2, one for training and one for validation, found {}",
                    self.limit_train.unwrap_or_default()
                ),
            ),
            (
                self.limit_test != Some(0),
                "data.limit_test: expected at least 1, found 0".to_string(),
            ),
        ])
    }
}

impl TrainingRecipe {
    /// Returns the first invalid value, field first.
    fn finding(&self) -> Option<String> {
        let positive_rate = self.learning_rate.is_finite() && self.learning_rate > 0.0;
        let positive_norm = self.clip_norm.is_none_or(|norm| norm > 0.0);
        let factor_shrinks = (0.0..1.0).contains(&self.plateau.factor);
        let balanced_once = self.class_weights == ClassWeighting::None || !self.balanced_sampler;
        first_finding([
            (
                self.epochs > 0,
                "training.epochs: expected at least 1, found 0".to_string(),
            ),
            (
                self.batch_size > 0,
                "training.batch_size: expected at least 1, found 0".to_string(),
            ),
            (
                self.gradient_accumulation > 0,
                "training.gradient_accumulation: expected at least 1, found 0".to_string(),
            ),
            (
                self.parallel_micro_batches > 0,
                "training.parallel_micro_batches: expected at least 1, found 0".to_string(),
            ),
            (
                (0.0..1.0).contains(&self.label_smoothing),
                format!(
                    "training.label_smoothing: expected at least 0 and below 1, found {}",
                    self.label_smoothing
                ),
            ),
            (
                balanced_once,
                "training.balanced_sampler: expected false with training.class_weights = \"balanced\", found true: \
                 rare classes would count twice"
                    .to_string(),
            ),
            (
                self.ema_decay
                    .is_none_or(|decay| (0.0..1.0).contains(&decay)),
                format!(
                    "training.ema_decay: expected at least 0 and below 1, found {:?}",
                    self.ema_decay.unwrap_or_default()
                ),
            ),
            (
                self.layer_decay > 0.0 && self.layer_decay <= 1.0,
                format!(
                    "training.layer_decay: expected above 0 and at most 1, found {}",
                    self.layer_decay
                ),
            ),
            (
                positive_rate,
                format!(
                    "training.learning_rate: expected a number above 0, found {}",
                    self.learning_rate
                ),
            ),
            (
                positive_norm,
                format!(
                    "training.clip_norm: expected a number above 0, found {:?}",
                    self.clip_norm.unwrap_or_default()
                ),
            ),
            (
                factor_shrinks,
                format!(
                    "training.plateau.factor: expected at least 0 and below 1, found {}",
                    self.plateau.factor
                ),
            ),
        ])
        .or_else(|| self.optimizer.finding())
        .or_else(|| self.schedule.finding())
    }
}

/// Returns the message of the first check that fails.
fn first_finding<const N: usize>(checks: [(bool, String); N]) -> Option<String> {
    let failed = checks.into_iter().find(|(fine, _)| !fine);
    failed.map(|(_, finding)| finding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_range_values_are_rejected_by_field() {
        for (text, finding) in [
            (
                "optimizer.weight_decay = 0.1",
                "training.optimizer.weight_decay: expected 0 for adam",
            ),
            (
                "optimizer.beta_2 = 1.0",
                "training.optimizer.beta_2: expected at least 0 and below 1",
            ),
            (
                "schedule.warmup_epochs = -1.0",
                "training.schedule.warmup_epochs: expected",
            ),
            ("schedule.hold = 1.0", "training.schedule.hold: expected"),
            (
                "label_smoothing = 1.0",
                "training.label_smoothing: expected",
            ),
            (
                "class_weights = 'balanced'\nbalanced_sampler = true",
                "training.balanced_sampler: expected false with training.class_weights = \"balanced\"",
            ),
            ("class_weights = 'other'", "training.class_weights"),
            ("ema_decay = 1.0", "training.ema_decay: expected"),
            (
                "gradient_accumulation = 0",
                "training.gradient_accumulation: expected",
            ),
            (
                "budget = '600'",
                "budget: expected a duration above 0 with its units",
            ),
        ] {
            let layers = [("my.toml", &format!("[training]\n{text}"))];
            let error = Recipe::from_layers(&layers).unwrap_err().to_string();
            assert!(error.contains(finding), "{error}");
        }
    }

    #[test]
    fn shards_take_class_weights_but_no_balanced_sampler() {
        let recipe = |field: &str| {
            let text = format!("[data]\ndataset = 'shards:a'\n[training]\n{field}");
            Recipe::from_layers(&[("my.toml", &text)])
        };
        recipe("class_weights = 'balanced'").unwrap();
        let error = recipe("balanced_sampler = true").unwrap_err().to_string();
        let expected = "training.balanced_sampler: expected false for data.dataset = shards:a";
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn limits_that_leave_no_data_are_rejected_before_training() {
        for (field, limit, least) in [("limit_train", 1, 2), ("limit_test", 0, 1)] {
            let text = format!("[data]\n{field} = {limit}");
            let error = Recipe::from_layers(&[("my.toml", &text)]).unwrap_err();
            let expected = format!("recipe my.toml: data.{field}: expected at least {least}");
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
    }
}
