//! The weights of a model by name, on the CPU.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use perceiver_model::Parameters;

use crate::error::{ExportError, Result};

/// The weights of a model by name, f32 on the CPU.
#[derive(Debug)]
pub(crate) struct Weights(HashMap<String, Tensor>);

impl Weights {
    pub(crate) fn new(parameters: &Parameters) -> Result<Self> {
        let on_cpu = |(name, tensor): (String, Tensor)| {
            let tensor = tensor.detach().to_device(&Device::Cpu)?;
            Ok((name, tensor.to_dtype(DType::F32)?))
        };
        let tensors = parameters.tensors().into_iter().map(on_cpu);
        Ok(Self(tensors.collect::<Result<_>>()?))
    }

    /// Returns the weight `name`.
    pub(crate) fn get(&self, name: &str) -> Result<&Tensor> {
        let weight = self.0.get(name);
        weight.ok_or_else(|| ExportError::MissingWeight {
            name: name.to_string(),
        })
    }

    /// Returns weight `[outputs, inputs]` and bias `[outputs]` of the fully connected layer `name`.
    pub(crate) fn dense(&self, name: &str) -> Result<[&Tensor; 2]> {
        Ok([
            self.get(&format!("{name}.weight"))?,
            self.get(&format!("{name}.bias"))?,
        ])
    }

    /// Returns all weights by name.
    pub(crate) fn tensors(&self) -> &HashMap<String, Tensor> {
        &self.0
    }
}
