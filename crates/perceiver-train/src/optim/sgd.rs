//! Gradient descent with momentum, Keras's `SGD`.

use candle_core::Tensor;
use perceiver_ops::{ParameterStep, SgdStep, one_by_one, sgd_step};

use crate::error::Result;
use crate::optim::config::OptimizerRecipe;
use crate::optim::update_rule::{PerParameter, UpdateRule};

/// Keras's `SGD`.
pub type Sgd = PerParameter<SgdRule, 1>;

/// The update rule of gradient descent.
#[derive(Clone, Copy, Debug)]
pub struct SgdRule(SgdStep);

impl UpdateRule<1> for SgdRule {
    const MOMENTS: [&'static str; 1] = ["velocity"];

    fn at(recipe: &OptimizerRecipe, learning_rate: f32, _steps: u64) -> Self {
        Self(SgdStep {
            learning_rate,
            momentum: recipe.momentum as f32,
            nesterov: recipe.nesterov,
        })
    }

    fn apply(&self, parameters: &[ParameterStep<1>], factor: Option<&Tensor>) -> Result<()> {
        Ok(one_by_one(parameters, factor, |each, gradient| {
            let [velocity] = each.moments;
            sgd_step(each.parameter, velocity, gradient, self.0)
        })?)
    }
}
