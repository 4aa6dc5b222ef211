//! Rejects logits that are NaN or infinite.

use candle_core::Tensor;
use perceiver_ops::first_not_finite;

use crate::error::{Result, TrainError};

/// Checks that the logits `[n, classes]` of images, from index `first` on, are finite. Finite
/// weights do not guarantee that: large sums overflow, the sooner the lower the precision.
///
/// # Errors
/// [`TrainError::ScoreNotFinite`] with the first image whose logits are not finite.
pub(crate) fn require_finite_scores(scores: &Tensor, first: usize) -> Result<()> {
    let (_, classes) = scores.dims2()?;
    match first_not_finite(scores)? {
        None => Ok(()),
        Some((at, value)) => Err(TrainError::ScoreNotFinite {
            image: first + at / classes,
            class: at % classes,
            value,
        }),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn non_finite_errors_name_the_image_and_the_class() {
        let scores = |value: f32| {
            let rows = [[1.0, -2.0, 3.0], [0.0, value, 5.0]];
            Tensor::new(&rows, &Device::Cpu).unwrap()
        };
        require_finite_scores(&scores(1e38), 64).unwrap();
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = require_finite_scores(&scores(value), 64).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "image 65: expected finite logits, found {value} for class 1: the model's weights are too large for its \
                     compute precision"
                )
            );
        }
    }
}
