//! LAMB, the optimizer of the Perceiver paper (You et al., 2020), in Keras's form or in TensorFlow
//! Addons'.
//!
//! The two differ in weight decay only: Keras 3 subtracts it from the parameter beforehand;
//! TensorFlow Addons, like the paper, adds it to the update before it is scaled
//! ([`DecayForm`](crate::DecayForm)).

use candle_core::Tensor;
use perceiver_ops::{LambStep, ParameterStep, lamb_steps};

use crate::error::Result;
use crate::optim::config::OptimizerRecipe;
use crate::optim::update_rule::{PerParameter, UpdateRule};

/// Keras's `Lamb`.
pub type Lamb = PerParameter<LambRule, 2>;

/// The update rule of LAMB.
#[derive(Clone, Copy, Debug)]
pub struct LambRule(LambStep);

impl UpdateRule<2> for LambRule {
    const MOMENTS: [&'static str; 2] = ["first", "second"];

    fn at(recipe: &OptimizerRecipe, learning_rate: f32, steps: u64) -> Self {
        let (beta_1, beta_2, time) = (recipe.beta_1, recipe.beta_2, steps as f64);
        Self(LambStep {
            first_rate: (1.0 - beta_1) as f32,
            second_rate: (1.0 - beta_2) as f32,
            first_correction: (1.0 / (1.0 - beta_1.powf(time))) as f32,
            second_correction: (1.0 / (1.0 - beta_2.powf(time))) as f32,
            epsilon: recipe.epsilon as f32,
            weight_decay: 0.0, // each parameter has its own
            learning_rate,
        })
    }

    fn apply(&self, parameters: &[ParameterStep<2>], factor: Option<&Tensor>) -> Result<()> {
        Ok(lamb_steps(parameters, self.0, factor)?)
    }
}
