//! Whether a model is right as often as it says: of the pictures it is 70% sure of, are 70% right?
//!
//! Guo et al., "On Calibration of Modern Neural Networks", 2017.

use perceiver_train::Prediction;

/// Bins of equal width, as in the paper.
const BINS: usize = 15;

/// How sure a model is, and how often it is right.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// The bins with pictures in them, from unsure to sure.
    pub bins: Vec<Bin>,
    /// The expected calibration error: the mean over all pictures of their bin's gap between `sure` and `right`.
    pub error: f64,
    /// The mean probability of what was predicted.
    pub sure: f64,
    /// The share that was right.
    pub right: f64,
}

/// The pictures of which the model was about equally sure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bin {
    /// How many.
    pub pictures: usize,
    /// The mean probability of what was predicted.
    pub sure: f64,
    /// The share that was right.
    pub right: f64,
}

impl Calibration {
    /// Measures predictions; nothing can be said of none.
    pub fn of(predictions: &[Prediction]) -> Option<Self> {
        let mut bins = vec![Vec::new(); BINS];
        for said in predictions {
            // (0, 1/15], (1/15, 2/15], ...
            let above = (f64::from(said.probability) * BINS as f64).ceil() as usize;
            bins[above.clamp(1, BINS) - 1].push(*said);
        }
        let bins: Vec<Bin> = bins.iter().filter_map(|bin| Bin::of(bin)).collect();
        let all = Bin::of(predictions)?;
        let gaps = bins
            .iter()
            .map(|bin| bin.pictures as f64 * (bin.sure - bin.right).abs());
        Some(Self {
            error: gaps.sum::<f64>() / all.pictures as f64,
            sure: all.sure,
            right: all.right,
            bins,
        })
    }
}

impl Bin {
    fn of(predictions: &[Prediction]) -> Option<Self> {
        let pictures = predictions.len();
        let sure: f64 = predictions
            .iter()
            .map(|said| f64::from(said.probability))
            .sum();
        let right = predictions.iter().filter(|said| said.is_right()).count();
        (pictures > 0).then(|| Self {
            pictures,
            sure: sure / pictures as f64,
            right: right as f64 / pictures as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::said;

    #[test]
    fn eighty_percent_sure_and_half_right_is_off_by_thirty() {
        let predictions = [(0, 0), (0, 1)].map(said);
        let calibration = Calibration::of(&predictions).unwrap();
        assert_eq!(calibration.bins.len(), 1);
        assert!((calibration.error - 0.3).abs() < 1e-6);
    }

    #[test]
    fn bins_count_by_their_pictures() {
        let mut predictions = [(0, 0); 4].map(said);
        predictions[3].probability = 0.1;
        let calibration = Calibration::of(&predictions).unwrap();
        // Three are off by 0.2, one by 0.9.
        assert!((calibration.error - (3.0 * 0.2 + 0.9) / 4.0).abs() < 1e-6);
        assert!((calibration.sure - 0.625).abs() < 1e-6);
    }

    #[test]
    fn every_probability_has_a_bin_and_none_has_no_verdict() {
        for probability in [0.0, 1.0 / 15.0, 0.5, 1.0, 1.000_001, f32::NAN] {
            let mut one = said((0, 0));
            one.probability = probability;
            assert_eq!(Calibration::of(&[one]).unwrap().bins.len(), 1);
        }
        assert_eq!(Calibration::of(&[]), None);
    }
}
