//! EMA of the weights (Polyak and Juditsky, 1992).

use std::collections::HashMap;

use candle_core::Tensor;
use perceiver_model::Parameters;
use perceiver_ops::ema_updates;

use crate::error::Result;

/// The exponential moving average of all parameters, by name.
#[derive(Debug)]
pub(crate) struct Ema {
    decay: f64,
    means: HashMap<String, Tensor>,
}

impl Ema {
    /// Creates an average with this `decay` per step. The decay is lower in the first steps, so
    /// that the initial weights are forgotten.
    pub(crate) fn new(decay: f64, means: HashMap<String, Tensor>) -> Self {
        Self { decay, means }
    }

    /// Updates the average with the parameters after `steps` steps.
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
        Ok(ema_updates(&pairs, (1.0 - decay) as f32)?)
    }

    /// Returns the averages; empty before the first step. Later steps change them in place.
    pub(crate) fn means(&self) -> &HashMap<String, Tensor> {
        &self.means
    }
}
