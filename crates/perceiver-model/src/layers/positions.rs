//! Position embeddings of tokens: learned, or a projection of Fourier features of the coordinates.
//!
//! The features of a coordinate `x` in [-1, 1] are `x` itself and `sin(pi f x)`, `cos(pi f x)` for
//! frequencies `f` evenly spaced from 1 to the Nyquist frequency, half the number of tokens in a
//! row (Jaegle et al., section 3.2). The paper appends them to the pixel. A joint projection of
//! both is the sum of two projections, of which the positions' is the same for all images.

use std::f64::consts::PI;

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use perceiver_ops::{Transpose, batched_matmul};

use crate::config::{PerceiverConfig, Positions};

/// The limit of Keras's `Embedding` initializer: uniform in ±0.05.
const LEARNED_LIMIT: f64 = 0.05;

/// The position embeddings, added to the projected patches.
#[derive(Debug, Clone)]
pub(crate) enum PositionRows {
    Learned(Tensor), // [tokens, width]
    Fourier {
        features: Tensor,   // [tokens, features], fixed
        projection: Tensor, // [width, features]
    },
}

impl PositionRows {
    pub(crate) fn new(config: &PerceiverConfig, vb: &VarBuilder) -> Result<Self> {
        let (tokens, width) = (config.num_patches(), config.projection_dim);
        let uniform = |limit: f64| Init::Uniform {
            lo: -limit,
            up: limit,
        };
        Ok(match config.positions {
            Positions::Learned => {
                let init = uniform(LEARNED_LIMIT);
                Self::Learned(vb.get_with_hints((tokens, width), "positions", init)?)
            }
            Positions::Fourier => {
                let features = features(config.tokens_per_side(), config.fourier_bands);
                let count = features.len() / tokens;
                // Glorot's limit for the dense layer that takes patches and features together.
                let inputs = config.patch_len() + count;
                let init = uniform((6.0 / (inputs + width) as f64).sqrt());
                let projection = vb.get_with_hints((width, count), "position_projection", init)?;
                let features = Tensor::from_vec(features, (tokens, count), vb.device())?;
                Self::Fourier {
                    features: features.to_dtype(projection.dtype())?,
                    projection,
                }
            }
        })
    }

    /// Returns the embeddings, `[tokens, width]`.
    pub(crate) fn rows(&self) -> Result<Tensor> {
        match self {
            Self::Learned(rows) => Ok(rows.clone()),
            Self::Fourier {
                features,
                projection,
            } => batched_matmul(
                &features.unsqueeze(0)?,
                &projection.unsqueeze(0)?,
                Transpose::Right,
            )?
            .squeeze(0),
        }
    }
}

/// Computes the features of every token, left to right and top to bottom: the row's first, then the
/// column's.
fn features(side: usize, bands: usize) -> Vec<f32> {
    let of_coordinate = coordinate_features(side, bands);
    let tokens = of_coordinate
        .iter()
        .flat_map(|row| of_coordinate.iter().map(move |column| [row, column]));
    tokens.flatten().flatten().copied().collect()
}

/// Computes the features of `side` coordinates in a row or a column, `[side][1 + 2 * bands]`.
pub(crate) fn coordinate_features(side: usize, bands: usize) -> Vec<Vec<f32>> {
    (0..side)
        .map(|index| {
            let x = if side == 1 {
                0.0
            } else {
                2.0 * index as f64 / (side - 1) as f64 - 1.0
            };
            let waves = (0..bands).flat_map(|band| {
                let angle = PI * frequency(band, bands, side) * x;
                [angle.sin() as f32, angle.cos() as f32]
            });
            std::iter::once(x as f32).chain(waves).collect()
        })
        .collect()
}

/// Returns the frequency of a band in waves across the image.
fn frequency(band: usize, bands: usize, side: usize) -> f64 {
    let nyquist = (side as f64 / 2.0).max(1.0);
    if bands == 1 {
        return 1.0;
    }
    1.0 + (nyquist - 1.0) * band as f64 / (bands - 1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of the formula for 4 tokens in a row and frequencies 1 and 2.
    #[test]
    fn features_are_waves_up_to_the_nyquist_frequency() {
        let features = features(4, 2);
        let count = 2 * (1 + 2 * 2);
        assert_eq!(features.len(), 16 * count);
        let token = &features[count..2 * count]; // row 0, column 1: x = -1 and -1/3
        let (sixty, half) = (3f32.sqrt() / 2.0, 0.5);
        let expected = [
            -1.0,
            0.0,
            -1.0,
            0.0,
            1.0, // sin and cos of -pi and -2 pi
            -1.0 / 3.0,
            -sixty,
            half,
            -sixty,
            -half, // of -pi / 3 and -2 pi / 3
        ];
        for (actual, expected) in token.iter().zip(expected) {
            assert!((actual - expected).abs() < 1e-6, "{token:?}");
        }
    }

    #[test]
    fn no_two_tokens_have_the_same_features() {
        let features = features(8, 16);
        let mut tokens: Vec<Vec<u32>> = features
            .chunks(2 * 33)
            .map(|token| token.iter().map(|value| value.to_bits()).collect())
            .collect();
        tokens.sort();
        tokens.dedup();
        assert_eq!(tokens.len(), 64);
    }
}
