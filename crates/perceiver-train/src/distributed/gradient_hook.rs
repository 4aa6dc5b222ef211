//! Gradient hooks: report a parameter's gradient as soon as the backward pass has it.
//!
//! candle returns gradients only when the whole backward pass is done. A tap is an identity
//! operation between a parameter and all its uses. Its backward pass runs once every use has added
//! its share, and receives the complete gradient.

use std::sync::mpsc::Sender;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Layout, MetalStorage, Shape, Tensor};
use perceiver_model::{Architecture, Parameters};
use perceiver_ops::{apply_op1, to_dtype};

use crate::error::Result;

/// A parameter's name and its gradient.
pub(crate) type NamedGradient = (String, Tensor);

/// Returns the model on tapped copies of the current `parameters`, converted to this type; those
/// that are not trained have no tap. Its backward pass sends the gradients to `sender` and leaves none in candle's store.
///
/// # Errors
/// When the parameters were made for another architecture, or the device is out of memory.
pub(crate) fn hooked_model<A: Architecture>(
    parameters: &Parameters,
    architecture: &A,
    dtype: DType,
    sender: &Sender<NamedGradient>,
) -> Result<A::Model> {
    let model = parameters.model_through(architecture, |name, variable| {
        if parameters.get(name).is_none() {
            return to_dtype(variable, dtype);
        }
        let name = name.to_string();
        let sender = sender.clone();
        to_dtype(&apply_op1(variable, GradientHook { name, sender })?, dtype)
    });
    Ok(model?)
}

struct GradientHook {
    name: String,
    sender: Sender<NamedGradient>,
}

impl CustomOp1 for GradientHook {
    fn name(&self) -> &'static str {
        "tap"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn cuda_fwd(
        &self,
        storage: &CudaStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn metal_fwd(
        &self,
        storage: &MetalStorage,
        layout: &Layout,
    ) -> candle_core::Result<(MetalStorage, Shape)> {
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn bwd(
        &self,
        _parameter: &Tensor,
        _copy: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<Option<Tensor>> {
        // Nobody receives after a failed all-reduce; the end of the pass reports that error.
        let _ = self.sender.send((self.name.clone(), gradient.clone()));
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::mpsc::channel;

    use candle_core::Device;
    use perceiver_model::{Perceiver, PerceiverConfig};
    use perceiver_ops::{Mode, RngKey, Tape};

    use super::*;
    use crate::optim::gradients::Gradients;

    #[test]
    fn hooks_report_the_gradients_of_the_model_without_hooks() {
        let config = PerceiverConfig {
            image_size: 16,
            latent_dim: 8,
            projection_dim: 16,
            num_heads: 2,
            num_iterations: 2, // so that parameters are used twice
            num_transformer_blocks: 1,
            ffn_units: vec![16, 16],
            classifier_units: vec![16, 5],
            ..PerceiverConfig::default()
        };
        let parameters = Parameters::from_seed(&config, 1, &Device::Cpu).unwrap();
        let images = Tensor::rand(-1f32, 1.0, (2, 3, 16, 16), &Device::Cpu).unwrap();
        let loss = |model: &Perceiver| {
            let logits = model
                .forward(&images, Mode::Training(RngKey::new(3)))
                .unwrap();
            logits.sqr().unwrap().mean_all().unwrap()
        };
        let tape = Tape::start();
        let expected = loss(&parameters.model(&config).unwrap());
        let expected = Gradients::of(tape, &expected, &parameters).unwrap();

        let (sender, receiver) = channel();
        let tape = Tape::start();
        let model = hooked_model(&parameters, &config, DType::F32, &sender).unwrap();
        let store = tape.backward(&loss(&model)).unwrap();
        assert!(
            parameters
                .iter()
                .all(|(_, variable)| store.get(variable).is_none())
        );
        drop((sender, model, store));
        let gradients: BTreeMap<_, _> = receiver.iter().collect();
        assert_eq!(gradients.len(), parameters.iter().count());
        for (name, gradient) in gradients {
            let bits = |tensor: &Tensor| {
                let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                values.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            assert_eq!(
                bits(&gradient),
                bits(expected.get(&name).unwrap()),
                "{name}"
            );
        }
    }
}
