//! Optimizers that apply one update rule to every parameter.

use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;

use candle_core::Tensor;
use perceiver_model::Parameters;
use perceiver_ops::ParameterStep;

use crate::error::Result;
use crate::optim::config::{DecayForm, OptimizerRecipe};
use crate::optim::gradients::Gradients;
use crate::optim::state::Moments;
use crate::optim::{Optimizer, OptimizerState};

/// The update rule of an optimizer, for parameters with `N` moments: tensors of the parameter's
/// shape, initially zero.
pub trait UpdateRule<const N: usize>: Send {
    /// The names of the moments in a saved state.
    const MOMENTS: [&'static str; N];

    /// Returns the rule for the step number `steps`, from 1.
    fn at(recipe: &OptimizerRecipe, learning_rate: f32, steps: u64) -> Self;

    /// Updates moments and parameters in place from their gradients times `factor`.
    ///
    /// # Errors
    /// When the shapes differ.
    fn apply(&self, parameters: &[ParameterStep<N>], factor: Option<&Tensor>) -> Result<()>;
}

/// An optimizer that applies an [`UpdateRule`] to every parameter, after decoupled weight decay.
#[derive(Debug)]
pub struct PerParameter<R, const N: usize> {
    learning_rate: f32,
    recipe: OptimizerRecipe,
    /// Factors on the learning rates of parameters; 1 for all others.
    factors: HashMap<String, f32>,
    steps: u64,
    moments: Moments<N>,
    rule: PhantomData<fn() -> R>,
}

impl<R: UpdateRule<N>, const N: usize> PerParameter<R, N> {
    /// Creates the optimizer with Keras's defaults.
    pub fn new(learning_rate: f32) -> Self {
        Self::from_recipe(learning_rate, OptimizerRecipe::default())
    }

    /// Creates the optimizer with the hyperparameters of a recipe.
    pub fn from_recipe(learning_rate: f32, recipe: OptimizerRecipe) -> Self {
        Self {
            learning_rate,
            recipe,
            factors: HashMap::new(),
            steps: 0,
            moments: Moments::new(R::MOMENTS),
            rule: PhantomData,
        }
    }

    /// Returns the number of steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Returns the learning rate of the parameter `name`.
    fn learning_rate_of(&self, name: &str) -> f32 {
        self.learning_rate * self.factors.get(name).copied().unwrap_or(1.0)
    }

    /// Returns the weight decay of the parameter `name`: decoupled, and coupled.
    fn decays(&self, name: &str) -> [f32; 2] {
        let learning_rate = self.learning_rate_of(name);
        let beforehand = self.recipe.decay_of(name, DecayForm::Decoupled) * learning_rate;
        [beforehand, self.recipe.decay_of(name, DecayForm::Coupled)]
    }
}

impl<R: UpdateRule<N>, const N: usize> PerParameter<R, N> {
    /// Performs one step of the parameters that `includes` names, by name and shape.
    ///
    /// # Errors
    /// As for [`Optimizer::step`].
    pub(crate) fn step_of(
        &mut self,
        parameters: &Parameters,
        gradients: &Gradients,
        includes: impl Fn(&str, &[usize]) -> bool,
    ) -> Result<()> {
        self.steps += 1;
        // Parameters with one learning rate take their step together.
        let mut by_rate: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        let all = parameters.iter();
        for (name, parameter) in all.filter(|(name, variable)| includes(name, variable.dims())) {
            let gradient = gradients.of_parameter(name)?.contiguous()?;
            let moments = self.moments.of(name, &gradient)?;
            let step = (parameter.as_tensor(), moments, gradient, self.decays(name));
            let rate = self.learning_rate_of(name).to_bits();
            by_rate.entry(rate).or_default().push(step);
        }
        for (rate, all) in by_rate {
            let rule = R::at(&self.recipe, f32::from_bits(rate), self.steps);
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
            rule.apply(&steps.collect::<Vec<_>>(), gradients.factor())?;
        }
        Ok(())
    }
}

impl<R: UpdateRule<N>, const N: usize> Optimizer for PerParameter<R, N> {
    fn step(&mut self, parameters: &Parameters, gradients: &Gradients) -> Result<()> {
        self.step_of(parameters, gradients, |_, _| true)
    }

    fn set_learning_rate_factors(&mut self, factors: HashMap<String, f32>) -> Result<()> {
        self.factors = factors;
        Ok(())
    }

    fn set_learning_rate(&mut self, learning_rate: f32) {
        self.learning_rate = learning_rate;
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
