//! Cross-entropy, Keras's `SparseCategoricalCrossentropy(from_logits=True)`.

use candle_core::{D, Tensor};

use crate::error::Result;

/// The loss of every sample: `logits` `[batch, classes]` and `labels` `[batch]` (u32) give `[batch]`, in nats.
///
/// # Errors
/// When the shapes do not fit or a label names no class.
pub fn cross_entropies(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let log_probabilities = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    let of_labels = log_probabilities.gather(&labels.unsqueeze(1)?, 1)?; // [batch, 1]
    Ok(of_labels.squeeze(1)?.neg()?)
}

/// The mean loss of a batch, a scalar.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use perceiver_train::cross_entropy;
///
/// // Even scores over four classes: ln 4, whatever the label.
/// let logits = Tensor::new(&[[0f32, 0.0, 0.0, 0.0]], &Device::Cpu)?;
/// let loss = cross_entropy(&logits, &Tensor::new(&[2u32], &Device::Cpu)?)?;
/// assert_eq!(loss.to_scalar::<f32>()?, 4f32.ln());
/// # Ok::<(), perceiver_train::TrainError>(())
/// ```
///
/// # Errors
/// As for [`cross_entropies`].
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    Ok(cross_entropies(logits, labels)?.mean_all()?)
}
