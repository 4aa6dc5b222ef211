//! Architectures of image classifiers: sizes, names of weights, and how to build the model.

pub(crate) mod custom;
pub(crate) mod model_config;

use std::fmt;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde::Serialize;

use crate::classifier::Classifier;
use crate::error::Result;
use crate::summary::SummaryLayer;

/// An architecture of image classifiers: the sizes of a model, and its constructor from named
/// weights. Everything else in this project, such as parameters, training and checkpoints, takes
/// any architecture.
///
/// A program's own model is an architecture too:
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::{Linear, Module, VarBuilder};
/// use perceiver_model::{Architecture, Classifier, Parameters, Result};
/// use perceiver_ops::Mode;
///
/// /// A linear classifier of pixels.
/// #[derive(Clone, Debug, serde::Serialize)]
/// struct Pixels {
///     image_size: usize,
///     classes: usize,
/// }
///
/// #[derive(Debug)]
/// struct LinearModel {
///     linear: Linear,
///     classes: usize,
/// }
///
/// impl Architecture for Pixels {
///     type Model = LinearModel;
///
///     fn name(&self) -> &str {
///         "linear"
///     }
///     fn image_size(&self) -> usize {
///         self.image_size
///     }
///     fn num_classes(&self) -> usize {
///         self.classes
///     }
///     fn with_num_classes(self, classes: usize) -> Self {
///         Self { classes, ..self }
///     }
///     fn build(&self, vb: VarBuilder) -> Result<LinearModel> {
///         let pixels = 3 * self.image_size.pow(2);
///         let linear = candle_nn::linear(pixels, self.classes, vb.pp("head"))?;
///         Ok(LinearModel { linear, classes: self.classes })
///     }
/// }
///
/// impl Classifier for LinearModel {
///     fn forward(&self, images: &Tensor, _: Mode) -> Result<Tensor> {
///         Ok(self.linear.forward(&images.flatten_from(1)?)?)
///     }
///     fn num_classes(&self) -> usize {
///         self.classes
///     }
/// }
///
/// let architecture = Pixels { image_size: 8, classes: 5 };
/// # // candle_nn's initializers need a generator; here, weights are given.
/// # let weights = [("head.weight", vec![5, 192]), ("head.bias", vec![5])];
/// # let tensors = weights.map(|(name, shape)| (name.to_string(), Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()));
/// let parameters = Parameters::from_tensors(&architecture, tensors.into(), &Device::Cpu)?;
/// let model = parameters.model(&architecture)?;
/// let images = Tensor::zeros((2, 3, 8, 8), DType::F32, &Device::Cpu)?;
/// assert_eq!(model.forward(&images, Mode::Inference)?.dims(), [2, 5]);
/// # Ok::<(), perceiver_model::ModelError>(())
/// ```
pub trait Architecture: Clone + fmt::Debug + Send + Serialize + Sync + 'static {
    /// The model.
    type Model: Classifier + 'static;

    /// Returns the name of the kind of model, as recipes and checkpoints have it.
    fn name(&self) -> &str;

    /// Returns height and width of the images, in pixels.
    fn image_size(&self) -> usize;

    /// Returns the number of channels of the images.
    fn channels(&self) -> usize {
        3
    }

    /// Returns the number of classes.
    fn num_classes(&self) -> usize;

    /// Returns the architecture with another number of classes.
    #[must_use]
    fn with_num_classes(self, classes: usize) -> Self;

    /// Checks that every field is valid and that the fields agree.
    ///
    /// # Errors
    /// With the name and value of the first field that is not.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// Builds the model from the weights or initializers that `vb` provides. Every weight must be
    /// requested with its shape.
    ///
    /// # Errors
    /// When the configuration is invalid, or `vb` lacks a weight or has it in another shape.
    fn build(&self, vb: VarBuilder) -> Result<Self::Model>;

    /// Builds the model for inference, which may precompute products of its weights.
    ///
    /// # Errors
    /// As for [`Architecture::build`].
    fn build_for_inference(&self, vb: VarBuilder) -> Result<Self::Model> {
        self.build(vb)
    }

    /// Returns whether a tensor of the model is never trained, such as the running statistics of a
    /// batch norm.
    fn is_buffer(&self, _name: &str) -> bool {
        false
    }

    /// Returns whether a tensor of a checkpoint has no use in the model and is skipped.
    fn is_unused(&self, _name: &str) -> bool {
        false
    }

    /// Returns the prefix of the classification head's parameters, which fine-tuning with other
    /// classes initializes anew.
    fn head(&self) -> &'static str {
        "head."
    }

    /// Returns the layers in forward order, with their cost, for the model summary. By default, every
    /// group of parameters `layer.*` is a layer of unknown cost.
    fn layers(&self) -> Vec<SummaryLayer> {
        Vec::new()
    }

    /// Returns the minimum number of `f32` values that the backward pass needs of an image, for
    /// memory estimates; 0 if unknown.
    fn least_values_per_image(&self) -> u64 {
        0
    }

    /// Returns the tokens per row of `from` and of this architecture if they differ, so that
    /// [`Architecture::adapt`] resizes positions.
    fn resized_positions(&self, _from: &Self) -> Option<(usize, usize)> {
        None
    }

    /// Converts a weight of a model `from` for this architecture: positions may be resized.
    ///
    /// # Errors
    /// When candle refuses an operation.
    fn adapt(&self, _from: &Self, _name: &str, weight: &Tensor) -> Result<Tensor> {
        Ok(weight.clone())
    }
}
