//! Which optimizer a run uses, and its numbers.

use serde::{Deserialize, Serialize};

use crate::adam::Adam;
use crate::lamb::Lamb;
use crate::optimizer::Optimizer;
use crate::sgd::Sgd;
use crate::weight_decay::Decayed;

/// An optimizer by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// Adam in Keras's form.
    #[default]
    Adam,
    /// The same with decoupled weight decay.
    AdamW,
    /// Adam's update, made as long as the parameter it changes: the Perceiver paper's optimizer.
    Lamb,
    /// Gradient descent, with momentum.
    Sgd,
}

/// What weight decay is taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecayForm {
    /// From the parameter, by learning rate times decay, before the step: Keras 3's way for every optimizer.
    #[default]
    Decoupled,
    /// Of LAMB alone: it is part of the update whose length is then set, as in the paper and in TensorFlow Addons.
    Coupled,
}

/// An optimizer and its numbers. The defaults are Keras's; what an optimizer does not know is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerRecipe {
    /// Which one: adam, adamw, lamb or sgd.
    pub name: OptimizerName,
    /// How slowly Adam's and LAMB's mean of gradients moves.
    pub beta_1: f64,
    /// How slowly their mean of squared gradients moves.
    pub beta_2: f64,
    /// Keeps their quotient finite.
    pub epsilon: f64,
    /// How much of its velocity a parameter keeps under sgd.
    pub momentum: f64,
    /// Whether that momentum is Nesterov's.
    pub nesterov: bool,
    /// How fast parameters shrink, as a multiple of the learning rate.
    pub weight_decay: f64,
    /// Which parameters shrink: weights or all.
    pub decayed: Decayed,
    /// What the decay is taken from: decoupled or coupled.
    pub decay_form: DecayForm,
}

impl Default for OptimizerRecipe {
    fn default() -> Self {
        Self {
            name: OptimizerName::Adam,
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-7,
            momentum: 0.0,
            nesterov: false,
            weight_decay: 0.0,
            decayed: Decayed::Weights,
            decay_form: DecayForm::Decoupled,
        }
    }
}

impl OptimizerRecipe {
    /// The optimizer, before its first step.
    pub fn build(&self, learning_rate: f32) -> Box<dyn Optimizer> {
        match self.name {
            OptimizerName::Adam | OptimizerName::AdamW => {
                Box::new(Adam::from_recipe(learning_rate, *self))
            }
            OptimizerName::Lamb => Box::new(Lamb::from_recipe(learning_rate, *self)),
            OptimizerName::Sgd => Box::new(Sgd::from_recipe(learning_rate, *self)),
        }
    }

    /// What is wrong with the numbers, field first.
    pub(crate) fn finding(&self) -> Option<String> {
        let share = |value: f64| (0.0..1.0).contains(&value);
        let adam_decays = self.name == OptimizerName::Adam && self.weight_decay != 0.0;
        let coupled = self.decay_form == DecayForm::Coupled && self.name != OptimizerName::Lamb;
        let fine = [
            (
                share(self.beta_1),
                "beta_1: expected at least 0 and below 1",
                self.beta_1,
            ),
            (
                share(self.beta_2),
                "beta_2: expected at least 0 and below 1",
                self.beta_2,
            ),
            (
                share(self.momentum),
                "momentum: expected at least 0 and below 1",
                self.momentum,
            ),
            (
                self.epsilon.is_finite() && self.epsilon > 0.0,
                "epsilon: expected a number above 0",
                self.epsilon,
            ),
            (
                self.weight_decay.is_finite() && self.weight_decay >= 0.0,
                "weight_decay: expected at least 0",
                self.weight_decay,
            ),
            (
                !adam_decays,
                "weight_decay: expected 0 for adam (adamw has it)",
                self.weight_decay,
            ),
            (
                !coupled,
                "decay_form: expected decoupled for all but lamb; weight_decay is",
                self.weight_decay,
            ),
        ];
        let wrong = fine.into_iter().find(|(fine, ..)| !fine);
        wrong.map(|(_, finding, value)| format!("training.optimizer.{finding}, found {value}"))
    }

    /// The weight decay of the parameter called `name` in a form: 0 where it has the other one, or none.
    pub(crate) fn decay_of(&self, name: &str, form: DecayForm) -> f32 {
        if self.decay_form == form && self.decayed.includes(name) {
            self.weight_decay as f32
        } else {
            0.0
        }
    }
}
