//! Optimizer configuration: which optimizer a run uses, and its hyperparameters.

use serde::{Deserialize, Serialize};

use crate::optim::muon::{MOMENTUM, MuonRecipe, is_hidden_matrix};
use crate::optim::weight_decay::DecayScope;

/// The name of an optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// Adam in Keras's form.
    #[default]
    Adam,
    /// Adam with decoupled weight decay.
    AdamW,
    /// LAMB, the Perceiver paper's optimizer: Adam's update, scaled to the norm of the parameter
    /// that it changes.
    Lamb,
    /// Muon for hidden matrices, `AdamW` for all other parameters.
    Muon,
    /// Gradient descent, optionally with momentum.
    Sgd,
}

/// The form of weight decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecayForm {
    /// Subtracted from the parameter before the step, as learning rate times decay: Keras 3's form
    /// for every optimizer.
    #[default]
    Decoupled,
    /// Part of the update before it is scaled, for LAMB only, as in the paper and in TensorFlow
    /// Addons.
    Coupled,
}

/// The optimizer and its hyperparameters. The defaults are Keras's; an optimizer ignores the fields
/// that it does not use.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerRecipe {
    /// The optimizer: adam, adamw, lamb, muon or sgd.
    pub name: OptimizerName,
    /// The decay of the first moment (Adam, LAMB, `AdamW` beside Muon).
    pub beta_1: f64,
    /// The decay of the second moment (Adam, LAMB, `AdamW` beside Muon).
    pub beta_2: f64,
    /// The constant added to the denominator for numerical stability.
    pub epsilon: f64,
    /// The momentum of SGD.
    pub momentum: f64,
    /// Whether SGD uses Nesterov momentum.
    pub nesterov: bool,
    /// The weight decay, multiplied by the learning rate.
    pub weight_decay: f64,
    /// The parameters that weight decay applies to: weights or all.
    pub decayed: DecayScope,
    /// The form of weight decay: decoupled or coupled.
    pub decay_form: DecayForm,
    /// The hyperparameters of Muon.
    pub muon: MuonRecipe,
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
            decayed: DecayScope::Weights,
            decay_form: DecayForm::Decoupled,
            muon: MuonRecipe::default(),
        }
    }
}

impl OptimizerRecipe {
    /// Returns the first invalid value, field first.
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
                "weight_decay: expected 0 for adam (adamw has weight decay)",
                self.weight_decay,
            ),
        ];
        let wrong = fine.into_iter().find(|(fine, ..)| !fine);
        let wrong = wrong.map(|(_, finding, value)| format!("{finding}, found {value}"));
        let form = "decay_form: expected decoupled unless the optimizer is lamb, found coupled";
        let finding = wrong.or_else(|| coupled.then(|| form.to_string()));
        let finding = finding.or_else(|| self.muon.finding())?;
        Some(format!("training.optimizer.{finding}"))
    }

    /// Returns whether the optimizer has a moment of this kind for the parameter `name` of shape
    /// `dims`, if it has it for any.
    pub(crate) fn keeps_moment(&self, kind: &str, name: &str, dims: &[usize]) -> bool {
        match self.name {
            OptimizerName::Muon => is_hidden_matrix(name, dims) == (kind == MOMENTUM),
            _ => true,
        }
    }

    /// Returns the weight decay of the parameter `name` in this form; 0 if it has the other form,
    /// or none.
    pub(crate) fn decay_of(&self, name: &str, form: DecayForm) -> f32 {
        if self.decay_form == form && self.decayed.includes(name) {
            self.weight_decay as f32
        } else {
            0.0
        }
    }
}
