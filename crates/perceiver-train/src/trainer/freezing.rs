//! What is trained and how much: frozen parameters, the stage that trains the head alone, and the
//! learning rates of layers.

use perceiver_model::{Architecture, Parameters};

use crate::error::{Result, TrainError};
use crate::optim::OptimizerState;
use crate::optim::layer_decay::learning_rate_factors;
use crate::recipe::Recipe;
use crate::step::mixed_precision::MixedPrecision;
use crate::trainer::Trainer;

/// Before the names of all parameters of a Perceiver IO; prefixes in recipes may omit it.
const ROOT: &str = "perceiver.";

impl Recipe {
    /// Returns whether `training.freeze` names the parameter, by a prefix: it keeps its values in
    /// the whole run.
    pub fn freezes(&self, parameter: &str) -> bool {
        let prefixes = &self.training.freeze;
        prefixes.iter().any(|prefix| is_below(parameter, prefix))
    }
}

/// Returns the parameters that a recipe trains after `epochs` epochs; the others are frozen.
pub(crate) fn trained(parameters: &Parameters, recipe: &Recipe, epochs: usize) -> Parameters {
    let training = &recipe.training;
    let head = recipe.model.head();
    let trains_head_only = epochs < training.head_epochs;
    parameters
        .with_frozen(|name| recipe.freezes(name) || (trains_head_only && !name.starts_with(head)))
}

/// Returns the parameters that a recipe trains after `epochs` epochs, and the model of a training step.
pub(crate) fn stage(
    parameters: &Parameters,
    recipe: &Recipe,
    epochs: usize,
) -> Result<(Parameters, MixedPrecision)> {
    let trained = trained(parameters, recipe, epochs);
    let training = &recipe.training;
    let (precision, recompute) = (training.precision, training.activation_checkpointing);
    let working = MixedPrecision::new(&trained, &recipe.model, precision, recompute)?;
    Ok((trained, working))
}

/// Returns whether `name` is `prefix` or begins with it, up to a dot.
fn is_below(name: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('.');
    let names = [Some(name), name.strip_prefix(ROOT)].into_iter().flatten();
    names.into_iter().any(|name| {
        let rest = name.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// Checks that every prefix freezes a parameter and that some are trained in every stage.
///
/// # Errors
/// [`TrainError::Recipe`] with the field.
pub(crate) fn require_some_trained(parameters: &Parameters, recipe: &Recipe) -> Result<()> {
    let refused = |finding: String| TrainError::Recipe {
        name: "of this run".to_string(),
        finding,
    };
    for prefix in &recipe.training.freeze {
        if !parameters.iter().any(|(name, _)| is_below(name, prefix)) {
            let mut layers: Vec<&str> = parameters
                .iter()
                .map(|(name, _)| name.strip_prefix(ROOT).unwrap_or(name))
                .map(|name| name.split('.').next().unwrap_or(name))
                .collect();
            layers.dedup();
            return Err(refused(format!(
                "training.freeze: expected prefixes of parameters, such as {}, found {prefix:?}",
                layers.join(", ")
            )));
        }
    }
    for epochs in [0, recipe.training.head_epochs] {
        if trained(parameters, recipe, epochs).iter().next().is_none() {
            let expected = "at least one parameter that is trained";
            let found = recipe.training.freeze.join(", ");
            return Err(refused(format!(
                "training.freeze: expected {expected}, found all frozen ({found})"
            )));
        }
    }
    Ok(())
}

impl Trainer {
    /// Gives the optimizer the learning rates of the layers.
    pub(super) fn set_layer_rates(&mut self) -> Result<()> {
        let decay = self.recipe.training.layer_decay;
        if decay < 1.0 {
            let factors = learning_rate_factors(&self.recipe.model, &self.parameters, decay)?;
            self.optimizer.set_learning_rate_factors(factors)?;
        }
        Ok(())
    }

    /// Begins the stage that trains more than the head, after the last epoch of the other: with all
    /// parameters that are not frozen, and an optimizer without history.
    pub(super) fn enter_stage(&mut self) -> Result<()> {
        let epochs = self.progress.history.len();
        if epochs == 0 || epochs != self.recipe.training.head_epochs {
            return Ok(());
        }
        (self.trained, self.working) = stage(&self.parameters, &self.recipe, epochs)?;
        self.optimizer.restore(OptimizerState::default());
        self.progress.stage_start = self.progress.steps;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_at_dots() {
        assert!(is_below("encoder.positions", "encoder"));
        assert!(is_below("encoder.positions", "encoder."));
        assert!(is_below("latents", "latents"));
        assert!(is_below("perceiver.encoder.cross_attention.x", "encoder"));
        assert!(is_below(
            "perceiver.encoder.cross_attention.x",
            "perceiver.encoder"
        ));
        assert!(!is_below("encoder2.x", "encoder"));
        assert!(!is_below("head.0.weight", "head.0.w"));
    }
}
