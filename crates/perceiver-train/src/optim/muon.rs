//! Muon for hidden matrices, and `AdamW` for all other parameters.
//!
//! Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
//! (<https://kellerjordan.github.io/posts/muon>).

use std::collections::HashMap;

use candle_core::Tensor;
use perceiver_model::Parameters;
use perceiver_ops::{MuonScale, MuonStep, ParameterStep, muon_steps};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::optim::adam::Adam;
use crate::optim::config::OptimizerRecipe;
use crate::optim::gradients::Gradients;
use crate::optim::update_rule::{PerParameter, UpdateRule};
use crate::optim::{Optimizer, OptimizerState};

/// The kind of the only moment of hidden matrices in a saved state.
pub(crate) const MOMENTUM: &str = "momentum";

/// Parts of the names of modules whose weights are hidden matrices: attention, feed-forward layers
/// and convolutional stems, of both architectures.
const HIDDEN: [&str; 8] = [
    "attention",
    "cross_attention",
    "self_attends",
    "decoding_cross_attention",
    "transformer",
    "ffn",
    "mlp",
    "stem",
];

/// Returns whether Muon updates the parameter `name` of shape `dims`: the weight of an attention, a
/// feed-forward layer or a stem. `AdamW` updates the others: patch projection, positions, latents,
/// norms, biases, scales and the head.
pub(crate) fn is_hidden_matrix(name: &str, dims: &[usize]) -> bool {
    let parts = || name.split('.');
    let is_matrix = dims.len() >= 2 && dims[0] > 1 && dims[1..].iter().product::<usize>() > 1;
    let of_norm = || parts().any(|part| part.contains("norm"));
    let is_hidden = || parts().any(|part| HIDDEN.contains(&part) || part.starts_with("convnet"));
    is_matrix && name.ends_with(".weight") && !of_norm() && is_hidden()
}

/// Muon's hyperparameters, for hidden matrices; the others have those of `AdamW`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MuonRecipe {
    /// The learning rate of hidden matrices, as a factor on that of the run.
    pub learning_rate_factor: f64,
    /// The momentum.
    pub momentum: f64,
    /// Whether to use Nesterov momentum.
    pub nesterov: bool,
    /// The number of Newton-Schulz steps per step of the optimizer.
    pub newton_schulz_steps: usize,
    /// The scale of updates: shape or moonlight.
    pub scale: MuonScaleName,
}

/// The name of a [`MuonScale`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MuonScaleName {
    /// [`MuonScale::Shape`].
    #[default]
    Shape,
    /// [`MuonScale::Moonlight`].
    Moonlight,
}

impl Default for MuonRecipe {
    fn default() -> Self {
        Self {
            learning_rate_factor: 20.0,
            momentum: 0.95,
            nesterov: true,
            newton_schulz_steps: 5,
            scale: MuonScaleName::Shape,
        }
    }
}

impl MuonRecipe {
    /// The maximum of `newton_schulz_steps`.
    const MOST_ITERATIONS: usize = 100;

    /// Returns the first invalid value, field first.
    pub(crate) fn finding(&self) -> Option<String> {
        let (factor, momentum) = (self.learning_rate_factor, self.momentum);
        if !(factor.is_finite() && factor > 0.0) {
            let expected = "learning_rate_factor: expected a number above 0";
            return Some(format!("muon.{expected}, found {factor}"));
        }
        if !(0.0..1.0).contains(&momentum) {
            let expected = "momentum: expected at least 0 and below 1";
            return Some(format!("muon.{expected}, found {momentum}"));
        }
        let most = Self::MOST_ITERATIONS;
        let is_fine = (1..=most).contains(&self.newton_schulz_steps);
        (!is_fine).then(|| {
            let found = self.newton_schulz_steps;
            format!("muon.newton_schulz_steps: expected from 1 to {most}, found {found}")
        })
    }
}

/// The update rule of hidden matrices.
#[derive(Clone, Copy, Debug)]
pub struct MuonRule(MuonStep);

impl UpdateRule<1> for MuonRule {
    const MOMENTS: [&'static str; 1] = [MOMENTUM];

    fn at(recipe: &OptimizerRecipe, learning_rate: f32, _steps: u64) -> Self {
        let muon = recipe.muon;
        Self(MuonStep {
            learning_rate: f64::from(learning_rate),
            momentum: muon.momentum,
            nesterov: muon.nesterov,
            iterations: muon.newton_schulz_steps,
            scale: match muon.scale {
                MuonScaleName::Shape => MuonScale::Shape,
                MuonScaleName::Moonlight => MuonScale::Moonlight,
            },
        })
    }

    fn apply(&self, parameters: &[ParameterStep<1>], factor: Option<&Tensor>) -> Result<()> {
        Ok(muon_steps(parameters, self.0, factor)?)
    }
}

/// Muon for hidden matrices, `AdamW` for all other parameters. Their learning rates have a constant
/// ratio, so one schedule is for both.
#[derive(Debug)]
pub struct Muon {
    matrices: PerParameter<MuonRule, 1>,
    others: Adam,
    learning_rate_factor: f32,
}

impl Muon {
    /// Creates the optimizer with the default hyperparameters.
    pub fn new(learning_rate: f32) -> Self {
        Self::from_recipe(learning_rate, OptimizerRecipe::default())
    }

    /// Creates the optimizer with the hyperparameters of a recipe.
    pub fn from_recipe(learning_rate: f32, recipe: OptimizerRecipe) -> Self {
        let learning_rate_factor = recipe.muon.learning_rate_factor as f32;
        let of_matrices = learning_rate * learning_rate_factor;
        Self {
            matrices: PerParameter::from_recipe(of_matrices, recipe),
            others: Adam::from_recipe(learning_rate, recipe),
            learning_rate_factor,
        }
    }
}

impl Optimizer for Muon {
    fn step(&mut self, parameters: &Parameters, gradients: &Gradients) -> Result<()> {
        self.matrices
            .step_of(parameters, gradients, is_hidden_matrix)?;
        let is_other = |name: &str, dims: &[usize]| !is_hidden_matrix(name, dims);
        self.others.step_of(parameters, gradients, is_other)
    }

    fn set_learning_rate(&mut self, learning_rate: f32) {
        let of_matrices = learning_rate * self.learning_rate_factor;
        self.matrices.set_learning_rate(of_matrices);
        self.others.set_learning_rate(learning_rate);
    }

    fn set_learning_rate_factors(&mut self, factors: HashMap<String, f32>) -> Result<()> {
        self.matrices.set_learning_rate_factors(factors.clone())?;
        self.others.set_learning_rate_factors(factors)
    }

    fn state(&self) -> Result<OptimizerState> {
        let mut state = self.others.state()?;
        state.tensors.extend(self.matrices.state()?.tensors);
        Ok(state)
    }

    fn restore(&mut self, state: OptimizerState) {
        self.matrices.restore(state.clone());
        self.others.restore(state);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use perceiver_model::{PerceiverConfig, PerceiverIoConfig};

    use super::*;

    fn hidden(parameters: &Parameters) -> (Vec<String>, Vec<String>) {
        let named = parameters.iter().map(|(name, variable)| {
            let is_hidden = is_hidden_matrix(name, variable.dims());
            (name.to_string(), is_hidden)
        });
        let (hidden, others): (Vec<_>, Vec<_>) = named.partition(|(_, is_hidden)| *is_hidden);
        let names = |pairs: Vec<(String, bool)>| pairs.into_iter().map(|pair| pair.0).collect();
        (names(hidden), names(others))
    }

    #[test]
    fn muon_has_the_weights_of_attention_feed_forward_layers_and_stem() {
        let config = PerceiverConfig {
            image_size: 16,
            stem_units: vec![8],
            ..PerceiverConfig::default()
        };
        let parameters = Parameters::from_seed(&config, 0, &Device::Cpu).unwrap();
        let (hidden, others) = hidden(&parameters);
        for name in [
            "stem.0.convolution.weight",
            "cross_attention.query.weight",
            "transformer.0.ffn.0.weight",
        ] {
            assert!(
                hidden.iter().any(|hidden| hidden == name),
                "{name} in {hidden:?}"
            );
        }
        for name in [
            "latents",
            "encoder.positions",
            "encoder.projection.weight",
            "head.0.weight",
            "head.1.weight",
        ] {
            assert!(
                others.iter().any(|other| other == name),
                "{name} in {others:?}"
            );
        }
        assert!(
            others
                .iter()
                .filter(|name| name.starts_with("transformer"))
                .all(|name| { name.rsplit('.').next() == Some("bias") || name.contains("norm") }),
            "{others:?}"
        );
    }

    #[test]
    fn the_same_holds_for_perceiver_io() {
        let config = PerceiverIoConfig {
            num_latents: 3,
            d_latents: 8,
            num_self_attention_heads: 2,
            num_cross_attention_heads: 1,
            image_size: 12,
            ..PerceiverIoConfig::default()
        };
        let parameters = Parameters::from_seed(&config, 0, &Device::Cpu).unwrap();
        let (hidden, others) = hidden(&parameters);
        assert!(
            hidden
                .iter()
                .any(|name| name.contains("self_attends.0.mlp.dense1")),
            "{hidden:?}"
        );
        for part in ["embeddings.latents", "position_embeddings", "final_layer"] {
            assert!(!hidden.iter().any(|name| name.contains(part)), "{hidden:?}");
            assert!(others.iter().any(|name| name.contains(part)), "{others:?}");
        }
    }
}
