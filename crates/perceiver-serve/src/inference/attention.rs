//! Attention maps of an image: where the latents look, in each cross-attention.

use candle_core::Tensor;
use perceiver_report::{Attention, Latents, Map, Show, map_address};
use perceiver_train::Predictor;
use serde::Serialize;

use crate::http::api_error::ApiError;

/// The mean attention of all latents, one map per cross-attention.
#[derive(Clone, Debug)]
pub(crate) struct AttentionMaps(Vec<Map>);

/// An attention map in an answer.
#[derive(Debug, Serialize)]
pub(crate) struct ShownMap {
    /// Counted from 1.
    iteration: usize,
    /// Rows and columns of the map.
    side: usize,
    /// The attention weights, row by row; they sum to 1.
    weights: Vec<f32>,
    /// A translucent PNG of one pixel per weight, as a `data:` URL, to lay over the image.
    overlay: String,
}

impl AttentionMaps {
    /// Computes the maps of one preprocessed image, `[1, 3, side, side]` on the CPU.
    ///
    /// # Errors
    /// As for [`Attention::of`].
    pub(crate) fn of(predictor: &Predictor, input: &Tensor) -> Result<Self, ApiError> {
        let checkpoint = predictor.checkpoint();
        let failed = |finding: String| ApiError::Model { finding };
        let input = input.to_device(checkpoint.device());
        let input = input.map_err(|error| failed(error.to_string()))?;
        let attention = Attention::of_input(checkpoint, &input);
        let attention = attention.map_err(|error| ApiError::of_attention(&error))?;
        let iterations = 1..=attention.iterations();
        let maps = iterations.map(|iteration| {
            let map = attention.map(iteration, Latents::Mean, Show::Probabilities);
            map.map_err(|error| failed(error.to_string()))
        });
        Ok(Self(maps.collect::<Result<_, _>>()?))
    }

    /// Encodes the maps for an answer.
    ///
    /// # Errors
    /// When a map cannot be encoded.
    pub(crate) fn shown(self) -> Result<Vec<ShownMap>, ApiError> {
        let maps = self.0.into_iter().zip(1..);
        let shown = maps.map(|(map, iteration)| {
            Ok(ShownMap {
                iteration,
                side: map.side,
                overlay: map_address(&map).map_err(|error| ApiError::of_attention(&error))?,
                weights: map.values,
            })
        });
        shown.collect()
    }
}
