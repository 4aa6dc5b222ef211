//! LAMB, the optimizer of the Perceiver paper (You et al., 2020), in Keras's form or in TensorFlow Addons'.
//!
//! The two differ in weight decay alone: Keras 3 takes it from the parameter beforehand, TensorFlow Addons, like the paper, adds it
//! to the update whose length is then set ([`DecayForm`](crate::DecayForm)).

use perceiver_model::Parameters;
use perceiver_ops::{LambStep, decay, lamb_step};

use crate::error::Result;
use crate::gradients::Gradients;
use crate::moments::Moments;
use crate::optimizer::{Optimizer, OptimizerState};
use crate::optimizer_recipe::{DecayForm, OptimizerRecipe};

/// Keras's `Lamb`.
#[derive(Debug)]
pub struct Lamb {
    learning_rate: f32,
    recipe: OptimizerRecipe,
    steps: u64,
    moments: Moments<2>,
}

impl Lamb {
    /// LAMB with the numbers of a recipe.
    pub fn from_recipe(learning_rate: f32, recipe: OptimizerRecipe) -> Self {
        Self {
            learning_rate,
            recipe,
            steps: 0,
            moments: Moments::new(["first", "second"]),
        }
    }

    fn coupled_decay(&self, name: &str) -> f32 {
        let coupled = self.recipe.decay_form == DecayForm::Coupled;
        if coupled && self.recipe.decayed.includes(name) {
            self.recipe.weight_decay as f32
        } else {
            0.0
        }
    }
}

impl Optimizer for Lamb {
    fn step(&mut self, parameters: &Parameters, gradients: &Gradients) -> Result<()> {
        self.steps += 1;
        let (beta_1, beta_2, time) = (self.recipe.beta_1, self.recipe.beta_2, self.steps as f64);
        for (name, variable) in parameters.iter() {
            let gradient = gradients.of_parameter(name)?;
            let shrink = self.recipe.decay_before(name, self.learning_rate);
            if shrink > 0.0 {
                decay(variable, shrink)?;
            }
            let [first, second] = self.moments.of(name, gradient)?;
            let step = LambStep {
                first_rate: (1.0 - beta_1) as f32,
                second_rate: (1.0 - beta_2) as f32,
                first_correction: (1.0 / (1.0 - beta_1.powf(time))) as f32,
                second_correction: (1.0 / (1.0 - beta_2.powf(time))) as f32,
                epsilon: self.recipe.epsilon as f32,
                weight_decay: self.coupled_decay(name),
                learning_rate: self.learning_rate,
            };
            lamb_step(variable, &first, &second, gradient, step)?;
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
