//! Test helpers of this crate.

use perceiver_train::Prediction;

/// Returns a prediction of class `predicted` for an image of class `label`, with probability 0.8.
pub(crate) fn prediction((label, predicted): (u32, u32)) -> Prediction {
    let right = label == predicted;
    Prediction {
        image: 0,
        label,
        predicted,
        probability: 0.8,
        label_probability: if right { 0.8 } else { 0.1 },
        label_rank: if right { 1 } else { 2 },
    }
}
