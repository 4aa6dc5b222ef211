//! Image classifiers of any architecture, behind one trait.

use std::fmt;

use candle_core::{DType, Tensor};
use perceiver_ops::Mode;

use crate::error::{ModelError, Result};
use crate::hooks::{Features, Probe, Stage};

/// An image classifier. Training, evaluation and reports need no more of a model; what a model
/// does not have, such as attention, is left out of reports.
pub trait Classifier: fmt::Debug + Send + Sync {
    /// Computes the logits `[batch, classes]`, `f32`, of preprocessed images
    /// `[batch, channels, H, W]`.
    ///
    /// In training, `mode` carries the key of this step; equal keys give equal dropout masks.
    ///
    /// # Errors
    /// When the shape of the images is not that of the model's input.
    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor>;

    /// Returns the number of classes.
    fn num_classes(&self) -> usize;

    /// Computes [`Classifier::forward`] and passes the tensors of the model's stages to `probe`; by
    /// default, of the logits alone.
    ///
    /// # Errors
    /// As for [`Classifier::forward`].
    fn forward_probed(&self, images: &Tensor, mode: Mode, probe: &mut Probe) -> Result<Tensor> {
        let logits = self.forward(images, mode)?;
        probe(Stage::Logits, &logits);
        Ok(logits)
    }

    /// Computes the features of preprocessed images `[batch, channels, H, W]`, in `f32` and in
    /// inference mode; by default, from [`Classifier::forward_probed`].
    ///
    /// # Errors
    /// As for [`Classifier::forward`], and [`ModelError::NoFeatures`] if the model has no such stage.
    fn features(&self, images: &Tensor, features: Features) -> Result<Tensor> {
        let mut found = None;
        let mut keep = |stage, tensor: &Tensor| {
            if let (Features::Pooled, Stage::Pooled) | (Features::Latents, Stage::Transformer(_)) =
                (features, stage)
            {
                found = Some(tensor.clone());
            }
        };
        self.forward_probed(images, Mode::Inference, &mut keep)?;
        let found = found.ok_or(ModelError::NoFeatures { features })?;
        Ok(found.to_dtype(DType::F32)?)
    }

    /// Returns the type of the parameters.
    fn dtype(&self) -> DType {
        DType::F32
    }

    /// Returns the rows and columns of tokens for images of this height and width, if the model
    /// has attention maps over a grid of tokens.
    fn token_grid(&self, _height: usize, _width: usize) -> Option<[usize; 2]> {
        None
    }

    /// Returns the number of `f32` values that an image takes in a forward pass, where that is so
    /// many that whoever chooses the batch size should know; 0 otherwise.
    fn values_per_image(&self) -> u64 {
        0
    }

    /// Turns activation checkpointing on or off, if the model has it: the backward pass then
    /// recomputes what it does not keep.
    fn set_activation_checkpointing(&mut self, _on: bool) {}
}

impl Classifier for Box<dyn Classifier> {
    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        (**self).forward(images, mode)
    }

    fn num_classes(&self) -> usize {
        (**self).num_classes()
    }

    fn forward_probed(&self, images: &Tensor, mode: Mode, probe: &mut Probe) -> Result<Tensor> {
        (**self).forward_probed(images, mode, probe)
    }

    fn features(&self, images: &Tensor, features: Features) -> Result<Tensor> {
        (**self).features(images, features)
    }

    fn dtype(&self) -> DType {
        (**self).dtype()
    }

    fn token_grid(&self, height: usize, width: usize) -> Option<[usize; 2]> {
        (**self).token_grid(height, width)
    }

    fn values_per_image(&self) -> u64 {
        (**self).values_per_image()
    }

    fn set_activation_checkpointing(&mut self, on: bool) {
        (**self).set_activation_checkpointing(on);
    }
}
