//! Gradient descent with momentum, Keras's `SGD`.

use perceiver_model::Parameters;
use perceiver_ops::{SgdStep, decay, sgd_step};

use crate::error::Result;
use crate::gradients::Gradients;
use crate::moments::Moments;
use crate::optimizer::{Optimizer, OptimizerState};
use crate::optimizer_recipe::OptimizerRecipe;

/// Keras's `SGD`.
#[derive(Debug)]
pub struct Sgd {
    learning_rate: f32,
    recipe: OptimizerRecipe,
    steps: u64,
    moments: Moments<1>,
}

impl Sgd {
    /// Gradient descent with the numbers of a recipe.
    pub fn from_recipe(learning_rate: f32, recipe: OptimizerRecipe) -> Self {
        Self {
            learning_rate,
            recipe,
            steps: 0,
            moments: Moments::new(["velocity"]),
        }
    }
}

impl Optimizer for Sgd {
    fn step(&mut self, parameters: &Parameters, gradients: &Gradients) -> Result<()> {
        self.steps += 1;
        let step = SgdStep {
            learning_rate: self.learning_rate,
            momentum: self.recipe.momentum as f32,
            nesterov: self.recipe.nesterov,
        };
        for (name, variable) in parameters.iter() {
            let gradient = gradients.of_parameter(name)?;
            let shrink = self.recipe.decay_before(name, self.learning_rate);
            if shrink > 0.0 {
                decay(variable, shrink)?;
            }
            let [velocity] = self.moments.of(name, gradient)?;
            sgd_step(variable, &velocity, gradient, step)?;
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
