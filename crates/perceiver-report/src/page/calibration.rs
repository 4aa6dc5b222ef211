//! Calibration: confidence against accuracy, and the expected calibration error.
//!
//! Guo et al., "On Calibration of Modern Neural Networks", 2017.

use perceiver_train::Prediction;

/// The number of bins of equal width, as in the paper.
const BINS: usize = 15;

/// The calibration of a model: how its confidence compares with its accuracy.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// The non-empty bins, by rising confidence.
    pub bins: Vec<Bin>,
    /// The expected calibration error: the mean over all images of the gap between `confidence` and
    /// `accuracy` of their bin.
    pub error: f64,
    /// The mean probability of the predicted class.
    pub confidence: f64,
    /// The share of correct predictions.
    pub accuracy: f64,
}

/// A bin of images with similar confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bin {
    /// The number of images.
    pub images: usize,
    /// The mean probability of the predicted class.
    pub confidence: f64,
    /// The share of correct predictions.
    pub accuracy: f64,
}

impl Calibration {
    /// Computes the calibration of predictions, or `None` if there are none.
    pub fn of(predictions: &[Prediction]) -> Option<Self> {
        let mut bins = vec![Vec::new(); BINS];
        for prediction in predictions {
            // (0, 1/15], (1/15, 2/15], ...
            let above = (f64::from(prediction.probability) * BINS as f64).ceil() as usize;
            bins[above.clamp(1, BINS) - 1].push(*prediction);
        }
        let bins: Vec<Bin> = bins.iter().filter_map(|bin| Bin::of(bin)).collect();
        let all = Bin::of(predictions)?;
        let gaps = bins
            .iter()
            .map(|bin| bin.images as f64 * (bin.confidence - bin.accuracy).abs());
        Some(Self {
            error: gaps.sum::<f64>() / all.images as f64,
            confidence: all.confidence,
            accuracy: all.accuracy,
            bins,
        })
    }
}

impl Bin {
    fn of(predictions: &[Prediction]) -> Option<Self> {
        let images = predictions.len();
        let confidence: f64 = predictions
            .iter()
            .map(|prediction| f64::from(prediction.probability))
            .sum();
        let accuracy = predictions
            .iter()
            .filter(|prediction| prediction.is_right())
            .count();
        (images > 0).then(|| Self {
            images,
            confidence: confidence / images as f64,
            accuracy: accuracy as f64 / images as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::prediction;

    #[test]
    fn the_error_is_the_gap_of_confidence_and_accuracy() {
        let predictions = [(0, 0), (0, 1)].map(prediction);
        let calibration = Calibration::of(&predictions).unwrap();
        assert_eq!(calibration.bins.len(), 1);
        assert!((calibration.error - 0.3).abs() < 1e-6);
    }

    #[test]
    fn bins_are_weighted_by_their_sample_counts() {
        let mut predictions = [(0, 0); 4].map(prediction);
        predictions[3].probability = 0.1;
        let calibration = Calibration::of(&predictions).unwrap();
        // Three are off by 0.2, one by 0.9.
        assert!((calibration.error - (3.0 * 0.2 + 0.9) / 4.0).abs() < 1e-6);
        assert!((calibration.confidence - 0.625).abs() < 1e-6);
    }

    #[test]
    fn every_probability_has_a_bin_and_no_predictions_give_none() {
        for probability in [0.0, 1.0 / 15.0, 0.5, 1.0, 1.000_001, f32::NAN] {
            let mut one = prediction((0, 0));
            one.probability = probability;
            assert_eq!(Calibration::of(&[one]).unwrap().bins.len(), 1);
        }
        assert_eq!(Calibration::of(&[]), None);
    }
}
