//! What a model says of pictures, before anybody is told.

use candle_core::Tensor;
use perceiver_ops::first_not_finite;

use crate::error::{Result, TrainError};

/// Makes sure that the scores `[n, classes]` of pictures, the `first` one onwards, are finite. Those of finite weights may be none: sums of
/// large numbers overflow, the earlier the fewer bits a number has.
///
/// # Errors
/// [`TrainError::ScoreNotFinite`] with the first picture of which something else was said.
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
    fn the_picture_and_the_class_are_named() {
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
                    "image 65: expected finite scores of its classes, found {value} for class 1: the model's weights are too \
                     large for the numbers it computes in"
                )
            );
        }
    }
}
