//! Weights averaged over the steps: a moving mean that often does better than the weights themselves (Polyak and Juditsky,
//! "Acceleration of stochastic approximation by averaging", 1992).

use std::collections::HashMap;

use candle_core::Tensor;
use perceiver_model::Parameters;
use perceiver_ops::move_means;

use crate::error::Result;

/// The mean of all parameters, by name.
#[derive(Debug)]
pub(crate) struct Averaging {
    decay: f64,
    means: HashMap<String, Tensor>,
}

impl Averaging {
    /// A mean that keeps `decay` of itself in a step, and less in the first: it has to forget where it began.
    pub(crate) fn new(decay: f64, means: HashMap<String, Tensor>) -> Self {
        Self { decay, means }
    }

    /// Takes the parameters as they are after `steps` steps.
    pub(crate) fn update(&mut self, parameters: &Parameters, steps: u64) -> Result<()> {
        let steps = steps as f64;
        let decay = self.decay.min((1.0 + steps) / (10.0 + steps)); // TensorFlow's `num_updates`
        let mut pairs = Vec::new();
        for (name, variable) in parameters.iter() {
            match self.means.get(name) {
                Some(mean) => pairs.push((mean.clone(), variable.detach())),
                None => {
                    self.means
                        .insert(name.to_string(), variable.detach().copy()?);
                }
            }
        }
        let pairs: Vec<_> = pairs.iter().map(|(mean, value)| (mean, value)).collect();
        Ok(move_means(&pairs, (1.0 - decay) as f32)?)
    }

    /// The means, none before the first step: later steps change them where they are.
    pub(crate) fn means(&self) -> &HashMap<String, Tensor> {
        &self.means
    }
}
