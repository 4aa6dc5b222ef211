//! Adam in Keras's form, and with decoupled weight decay `AdamW`.
//!
//! With gradient `g` at step `t`: `m += (g - m)(1 - beta_1)`, `v += (g^2 - v)(1 - beta_2)`,
//! `w -= rate * sqrt(1 - beta_2^t) / (1 - beta_1^t) * m / (sqrt(v) + epsilon)` (Kingma and Ba, 2015, the form before section
//! 2.1). The epsilon stands outside the bias correction, unlike PyTorch's and candle's.

use perceiver_model::Parameters;
use perceiver_ops::{AdamStep, adam_step, decay};

use crate::error::Result;
use crate::gradients::Gradients;
use crate::moments::Moments;
use crate::optimizer::{Optimizer, OptimizerState};
use crate::optimizer_recipe::OptimizerRecipe;

/// Keras's `Adam`, or with weight decay its `AdamW`.
#[derive(Debug)]
pub struct Adam {
    learning_rate: f32,
    recipe: OptimizerRecipe,
    steps: u64,
    moments: Moments<2>,
}

impl Adam {
    /// Adam with Keras's defaults: betas 0.9 and 0.999, epsilon 1e-7, no weight decay.
    pub fn new(learning_rate: f32) -> Self {
        Self::from_recipe(learning_rate, OptimizerRecipe::default())
    }

    /// Adam with the numbers of a recipe.
    pub fn from_recipe(learning_rate: f32, recipe: OptimizerRecipe) -> Self {
        Self {
            learning_rate,
            recipe,
            steps: 0,
            moments: Moments::new(["first", "second"]),
        }
    }
}

impl Optimizer for Adam {
    fn step(&mut self, parameters: &Parameters, gradients: &Gradients) -> Result<()> {
        self.steps += 1;
        let (beta_1, beta_2, time) = (self.recipe.beta_1, self.recipe.beta_2, self.steps as f64);
        let correction = (1.0 - beta_2.powf(time)).sqrt() / (1.0 - beta_1.powf(time));
        let step = AdamStep {
            first_rate: (1.0 - beta_1) as f32,
            second_rate: (1.0 - beta_2) as f32,
            step_size: (f64::from(self.learning_rate) * correction) as f32,
            epsilon: self.recipe.epsilon as f32,
        };
        for (name, variable) in parameters.iter() {
            let gradient = gradients.of_parameter(name)?;
            let shrink = self.recipe.decay_before(name, self.learning_rate);
            if shrink > 0.0 {
                decay(variable, shrink)?;
            }
            let [first, second] = self.moments.of(name, gradient)?;
            adam_step(variable, &first, &second, gradient, step)?;
        }
        Ok(())
    }

    fn learning_rate(&self) -> f32 {
        self.learning_rate
    }

    fn set_learning_rate(&mut self, learning_rate: f32) {
        self.learning_rate = learning_rate;
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn state(&self) -> Result<OptimizerState> {
        Ok(OptimizerState {
            steps: self.steps,
            tensors: self.moments.state()?,
        })
    }

    fn restore(&mut self, state: OptimizerState) {
        self.steps = state.steps;
        self.moments.restore(&state.tensors);
    }
}
