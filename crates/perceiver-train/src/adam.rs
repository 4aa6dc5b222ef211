//! Adam in Keras's form.
//!
//! With gradient `g` at step `t`: `m += (g - m)(1 - beta_1)`, `v += (g^2 - v)(1 - beta_2)`,
//! `w -= rate * sqrt(1 - beta_2^t) / (1 - beta_1^t) * m / (sqrt(v) + epsilon)` (Kingma and Ba, 2015, the form before section
//! 2.1). The epsilon stands outside the bias correction, unlike PyTorch's and candle's.

use std::collections::{BTreeMap, HashMap};

use candle_core::Tensor;
use perceiver_model::Parameters;
use perceiver_ops::{AdamStep, adam_step};

use crate::error::{Result, TrainError};
use crate::gradients::Gradients;
use crate::optimizer::{Optimizer, OptimizerState};

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-7;

/// Keras's `Adam`, optionally with `global_clipnorm`.
#[derive(Debug)]
pub struct Adam {
    learning_rate: f32,
    clip_norm: Option<f64>,
    steps: u64,
    moments: BTreeMap<String, Moments>,
}

/// Running means of a parameter's gradient and of its square.
#[derive(Debug, Clone)]
struct Moments {
    first: Tensor,
    second: Tensor,
}

impl Adam {
    /// Adam with Keras's defaults: betas 0.9 and 0.999, epsilon 1e-7, no clipping.
    pub fn new(learning_rate: f32) -> Self {
        Self {
            learning_rate,
            clip_norm: None,
            steps: 0,
            moments: BTreeMap::new(),
        }
    }

    /// The same with gradients clipped to a global norm.
    #[must_use]
    pub fn with_clip_norm(mut self, clip_norm: Option<f64>) -> Self {
        self.clip_norm = clip_norm;
        self
    }

    /// The means that belong to a parameter, zero at first.
    fn moments(&mut self, name: &str, gradient: &Tensor) -> Result<Moments> {
        if let Some(moments) = self.moments.get(name) {
            return Ok(moments.clone());
        }
        let moments = Moments {
            first: gradient.zeros_like()?,
            second: gradient.zeros_like()?,
        };
        self.moments.insert(name.to_string(), moments.clone());
        Ok(moments)
    }
}

impl Optimizer for Adam {
    fn step(&mut self, parameters: &Parameters, gradients: &Gradients) -> Result<()> {
        let clipped;
        let gradients = match self.clip_norm {
            None => gradients,
            Some(max_norm) => {
                clipped = gradients.clipped(max_norm)?;
                &clipped
            }
        };
        self.steps += 1;
        let time = self.steps as f64;
        let correction = (1.0 - BETA_2.powf(time)).sqrt() / (1.0 - BETA_1.powf(time));
        let step = AdamStep {
            first_rate: (1.0 - BETA_1) as f32,
            second_rate: (1.0 - BETA_2) as f32,
            step_size: (f64::from(self.learning_rate) * correction) as f32,
            epsilon: EPSILON as f32,
        };
        for (name, variable) in parameters.iter() {
            let Some(gradient) = gradients.get(name) else {
                let name = name.to_string();
                return Err(TrainError::NoGradient { name });
            };
            let Moments { first, second } = self.moments(name, gradient)?;
            adam_step(variable, &first, &second, gradient, step)?;
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
        let mut tensors = HashMap::new();
        for (name, moments) in &self.moments {
            tensors.insert(format!("first.{name}"), moments.first.copy()?);
            tensors.insert(format!("second.{name}"), moments.second.copy()?);
        }
        Ok(OptimizerState {
            steps: self.steps,
            tensors,
        })
    }

    fn restore(&mut self, mut state: OptimizerState) {
        let names: Vec<String> = state
            .tensors
            .keys()
            .filter_map(|key| key.strip_prefix("first.").map(String::from))
            .collect();
        self.steps = state.steps;
        self.moments = names
            .into_iter()
            .filter_map(|name| {
                let first = state.tensors.remove(&format!("first.{name}"))?;
                let second = state.tensors.remove(&format!("second.{name}"))?;
                Some((name, Moments { first, second }))
            })
            .collect();
    }
}
