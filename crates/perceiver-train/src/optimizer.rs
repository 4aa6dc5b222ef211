//! What an optimizer is to the trainer.

use std::collections::HashMap;

use candle_core::Tensor;
use perceiver_model::Parameters;

use crate::error::Result;
use crate::gradients::Gradients;

/// Everything an optimizer remembers between steps, in a form that can be saved.
#[derive(Debug, Clone, Default)]
pub struct OptimizerState {
    /// Steps taken.
    pub steps: u64,
    /// Moments and the like, by name.
    pub tensors: HashMap<String, Tensor>,
}

/// Changes parameters by their gradients.
pub trait Optimizer: Send {
    /// Takes one step.
    ///
    /// # Errors
    /// When a gradient is missing or candle refuses an operation.
    fn step(&mut self, parameters: &Parameters, gradients: &Gradients) -> Result<()>;

    /// The learning rate of the next step. In `f32`, as it is applied and as Keras keeps it.
    fn learning_rate(&self) -> f32;

    /// Sets the learning rate of the next step.
    fn set_learning_rate(&mut self, learning_rate: f32);

    /// Steps taken so far.
    fn steps(&self) -> u64;

    /// What must be saved for the next step to be the same after a restart, the learning rate aside. Later steps do not
    /// change it.
    ///
    /// # Errors
    /// When candle refuses a copy.
    fn state(&self) -> Result<OptimizerState>;

    /// Continues from a saved state.
    fn restore(&mut self, state: OptimizerState);
}
