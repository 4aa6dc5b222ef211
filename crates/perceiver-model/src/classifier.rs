//! Image classifiers of any architecture, behind one trait.

use candle_core::Tensor;
use perceiver_ops::Mode;

use crate::error::Result;
use crate::perceiver::Perceiver;
use crate::perceiver_io::PerceiverIo;

/// An image classifier. Evaluation needs no more of a model, so a model of a program's own is
/// evaluated like a [`Perceiver`].
pub trait Classifier: Send + Sync {
    /// Computes the logits `[batch, classes]`, `f32`, of preprocessed images
    /// `[batch, channels, H, W]`.
    ///
    /// # Errors
    /// When the shape of the images is not that of the model's input.
    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor>;

    /// Returns the number of classes.
    fn num_classes(&self) -> usize;
}

impl Classifier for Perceiver {
    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        Self::forward(self, images, mode)
    }

    fn num_classes(&self) -> usize {
        self.config().num_classes()
    }
}

impl Classifier for PerceiverIo {
    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        Self::forward(self, images, mode)
    }

    fn num_classes(&self) -> usize {
        self.config().num_labels()
    }
}
