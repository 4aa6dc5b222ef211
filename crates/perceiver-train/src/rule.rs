//! Optimizers that go from parameter to parameter: what they have in common around the rule that each is.

use std::marker::PhantomData;

use candle_core::Tensor;
use perceiver_model::Parameters;
use perceiver_ops::ParameterStep;

use crate::error::Result;
use crate::gradients::Gradients;
use crate::moments::Moments;
use crate::optimizer::{Optimizer, OptimizerState};
use crate::optimizer_recipe::{DecayForm, OptimizerRecipe};

/// How one step changes a parameter, which has `N` moments: tensors of its shape, zero at first.
pub trait Rule<const N: usize>: Send {
    /// What the moments are called in a saved state.
    const MOMENTS: [&'static str; N];

    /// The rule of the step after which `steps` will have been taken.
    fn at(recipe: &OptimizerRecipe, learning_rate: f32, steps: u64) -> Self;

    /// Changes moments and parameters where they are, by their gradients times `factor`.
    ///
    /// # Errors
    /// When the shapes differ.
    fn apply(&self, parameters: &[ParameterStep<N>], factor: Option<&Tensor>) -> Result<()>;
}

/// An optimizer that is a [`Rule`] for every parameter, after decoupled weight decay.
#[derive(Debug)]
pub struct ByParameter<R, const N: usize> {
    learning_rate: f32,
    recipe: OptimizerRecipe,
    steps: u64,
    moments: Moments<N>,
    rule: PhantomData<fn() -> R>,
}

impl<R: Rule<N>, const N: usize> ByParameter<R, N> {
    /// The optimizer with Keras's numbers.
    pub fn new(learning_rate: f32) -> Self {
        Self::from_recipe(learning_rate, OptimizerRecipe::default())
    }

    /// The optimizer with the numbers of a recipe.
    pub fn from_recipe(learning_rate: f32, recipe: OptimizerRecipe) -> Self {
        Self {
            learning_rate,
            recipe,
            steps: 0,
            moments: Moments::new(R::MOMENTS),
            rule: PhantomData,
        }
    }

    /// What weight decay takes of the parameter called `name`: beforehand, and in the update.
    fn decays(&self, name: &str) -> [f32; 2] {
        let beforehand = self.recipe.decay_of(name, DecayForm::Decoupled) * self.learning_rate;
        [beforehand, self.recipe.decay_of(name, DecayForm::Coupled)]
    }
}

impl<R: Rule<N>, const N: usize> Optimizer for ByParameter<R, N> {
    fn step(&mut self, parameters: &Parameters, gradients: &Gradients) -> Result<()> {
        self.steps += 1;
        let rule = R::at(&self.recipe, self.learning_rate, self.steps);
        let mut all = Vec::new();
        for (name, parameter) in parameters.iter() {
            let gradient = gradients.of_parameter(name)?.contiguous()?;
            let moments = self.moments.of(name, &gradient)?;
            all.push((parameter.as_tensor(), moments, gradient, self.decays(name)));
        }
        let steps = all.iter().map(|(parameter, moments, gradient, decays)| {
            let &[decay, weight_decay] = decays;
            ParameterStep {
                parameter,
                moments,
                gradient,
                decay,
                weight_decay,
            }
        });
        rule.apply(&steps.collect::<Vec<_>>(), gradients.factor())
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
