//! Optimizers: the trait, its state, and the constructor by name.

pub(crate) mod adam;
pub(crate) mod config;
pub(crate) mod ema;
pub(crate) mod gradients;
pub(crate) mod lamb;
pub(crate) mod layer_decay;
pub(crate) mod muon;
pub(crate) mod sgd;
pub(crate) mod state;
pub(crate) mod update_rule;
pub(crate) mod weight_decay;

use std::collections::HashMap;

use candle_core::Tensor;
use perceiver_model::Parameters;

use crate::error::{Result, TrainError};
use crate::optim::adam::Adam;
use crate::optim::config::{OptimizerName, OptimizerRecipe};
use crate::optim::gradients::Gradients;
use crate::optim::lamb::Lamb;
use crate::optim::muon::Muon;
use crate::optim::sgd::Sgd;

/// The state of an optimizer, for saving.
#[derive(Debug, Clone, Default)]
pub struct OptimizerState {
    /// The number of steps taken.
    pub steps: u64,
    /// The moments and other tensors, by name; `f32`.
    pub tensors: HashMap<String, Tensor>,
}

/// An optimizer: updates parameters from their gradients.
pub trait Optimizer: Send {
    /// Performs one step.
    ///
    /// # Errors
    /// When a gradient is missing or candle refuses an operation.
    fn step(&mut self, parameters: &Parameters, gradients: &Gradients) -> Result<()>;

    /// Sets the learning rate of the next step, in `f32` as Keras keeps it.
    fn set_learning_rate(&mut self, learning_rate: f32);

    /// Sets factors on the learning rates of parameters, by name, for layer-wise learning-rate
    /// decay; those without one have 1.
    ///
    /// # Errors
    /// [`TrainError::NoLayerDecay`] when the optimizer has no such factors, which is the default.
    fn set_learning_rate_factors(&mut self, _factors: HashMap<String, f32>) -> Result<()> {
        Err(TrainError::NoLayerDecay)
    }

    /// Returns a snapshot of the state. With it and the learning rate, a restarted optimizer takes
    /// the same next step. Later steps do not change the snapshot.
    ///
    /// # Errors
    /// When candle refuses a copy.
    fn state(&self) -> Result<OptimizerState>;

    /// Restores a saved state.
    fn restore(&mut self, state: OptimizerState);
}

impl OptimizerRecipe {
    /// Creates the optimizer, before its first step.
    pub fn build(&self, learning_rate: f32) -> Box<dyn Optimizer> {
        match self.name {
            OptimizerName::Adam | OptimizerName::AdamW => {
                Box::new(Adam::from_recipe(learning_rate, *self))
            }
            OptimizerName::Lamb => Box::new(Lamb::from_recipe(learning_rate, *self)),
            OptimizerName::Muon => Box::new(Muon::from_recipe(learning_rate, *self)),
            OptimizerName::Sgd => Box::new(Sgd::from_recipe(learning_rate, *self)),
        }
    }
}
