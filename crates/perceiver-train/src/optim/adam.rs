//! Adam in Keras's form, and with decoupled weight decay `AdamW`.
//!
//! With gradient `g` at step `t`: `m += (g - m)(1 - beta_1)`, `v += (g^2 - v)(1 - beta_2)`,
//! `w -= rate * sqrt(1 - beta_2^t) / (1 - beta_1^t) * m / (sqrt(v) + epsilon)` (Kingma and Ba,
//! 2015, the form before section 2.1). The epsilon stands outside the bias correction, unlike
//! PyTorch's and candle's.

use candle_core::Tensor;
use perceiver_ops::{AdamStep, ParameterStep, adam_steps};

use crate::error::Result;
use crate::optim::config::OptimizerRecipe;
use crate::optim::update_rule::{PerParameter, UpdateRule};

/// Keras's `Adam`; with weight decay, its `AdamW`.
pub type Adam = PerParameter<AdamRule, 2>;

/// The update rule of Adam.
#[derive(Clone, Copy, Debug)]
pub struct AdamRule(AdamStep);

impl UpdateRule<2> for AdamRule {
    const MOMENTS: [&'static str; 2] = ["first", "second"];

    fn at(recipe: &OptimizerRecipe, learning_rate: f32, steps: u64) -> Self {
        let (beta_1, beta_2, time) = (recipe.beta_1, recipe.beta_2, steps as f64);
        let correction = (1.0 - beta_2.powf(time)).sqrt() / (1.0 - beta_1.powf(time));
        Self(AdamStep {
            first_rate: (1.0 - beta_1) as f32,
            second_rate: (1.0 - beta_2) as f32,
            step_size: (f64::from(learning_rate) * correction) as f32,
            epsilon: recipe.epsilon as f32,
        })
    }

    fn apply(&self, parameters: &[ParameterStep<2>], factor: Option<&Tensor>) -> Result<()> {
        Ok(adam_steps(parameters, self.0, factor)?)
    }
}
