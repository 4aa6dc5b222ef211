//! Attention maps: where the latents of a model look in an image.

pub(crate) mod caption;
pub(crate) mod overlay;
pub(crate) mod sheet;

use candle_core::{DType, Device, Tensor};
use perceiver_data::Image;
use perceiver_model::Stage;
use perceiver_ops::Mode;
use perceiver_train::Checkpoint;

use crate::error::{ReportError, Result};

/// The cross-attention of a model on one image, for every iteration.
#[derive(Clone, Debug)]
pub struct Attention {
    iterations: Vec<Iteration>,
    latents: usize,
    side: usize,
}

/// One cross-attention, averaged over its heads. Both fields are `[latents, tokens]`, row-major.
#[derive(Clone, Debug)]
struct Iteration {
    logits: Vec<f32>,
    probabilities: Vec<f32>,
}

/// The quantity that an attention map shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// Attention weights (after softmax).
    Probabilities,
    /// Attention logits (before softmax), as in figure 3 of the Perceiver paper.
    Logits,
}

/// The selection of latents for an attention map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latents {
    /// The mean over all latents.
    Mean,
    /// A single latent, counted from 1.
    One(usize),
}

/// An attention map: one value per token in `side` rows of `side`. Token `t` is the patch in row `t
/// / side`.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// The values, row-major.
    pub values: Vec<f32>,
    /// The number of tokens along each side of the image.
    pub side: usize,
}

impl Attention {
    /// Computes the attention of a model on one image, preprocessed as the checkpoint requires.
    ///
    /// # Errors
    /// When the model rejects the image, an attention value is NaN or infinite, or the model has no
    /// attention over a square grid of tokens: [`ReportError::NoAttention`].
    pub fn of(checkpoint: &Checkpoint, image: &Image) -> Result<Self> {
        Self::of_input(checkpoint, &checkpoint.input(std::slice::from_ref(image))?)
    }

    /// [`Attention::of`] of an image that is preprocessed, `[1, 3, side, side]`, on the model's
    /// device.
    ///
    /// # Errors
    /// As for [`Attention::of`].
    pub fn of_input(checkpoint: &Checkpoint, input: &Tensor) -> Result<Self> {
        let (mut iterations, mut result): (Vec<Iteration>, _) = (Vec::new(), Ok(()));
        let mut logits = Vec::new();
        checkpoint
            .model
            .forward_probed(input, Mode::Inference, &mut |stage, tensor| {
                let seen = match stage {
                    Stage::CrossAttentionLogits(_) => tensor
                        .mean(1)
                        .and_then(|mean| values(&mean))
                        .map(|values| logits = values),
                    Stage::CrossAttentionMap(_) => values(tensor).map(|probabilities| {
                        let logits = std::mem::take(&mut logits);
                        iterations.push(Iteration {
                            logits,
                            probabilities,
                        });
                    }),
                    _ => Ok(()),
                };
                if result.is_ok() {
                    result = seen;
                }
            })?;
        result?;
        let all = iterations
            .iter()
            .flat_map(|it| [&it.logits, &it.probabilities]);
        if !all.flatten().all(|value| value.is_finite()) {
            return Err(ReportError::AttentionNotFinite);
        }
        let (_, _, height, width) = input.dims4()?;
        let grid = checkpoint.model.token_grid(height, width);
        let (Some([side, columns]), Some(first)) = (grid, iterations.first()) else {
            return Err(ReportError::NoAttention);
        };
        if side != columns || side == 0 {
            return Err(ReportError::NoAttention);
        }
        Ok(Self {
            latents: first.probabilities.len() / (side * columns),
            iterations,
            side,
        })
    }

    /// Returns the number of iterations (cross-attentions).
    pub fn iterations(&self) -> usize {
        self.iterations.len()
    }

    /// Returns the number of latents.
    pub fn latents(&self) -> usize {
        self.latents
    }

    /// Returns the attention map of `latents` in an iteration, counted from 1.
    ///
    /// # Errors
    /// When the iteration or the latent does not exist.
    pub fn map(&self, iteration: usize, latents: Latents, show: Show) -> Result<Map> {
        require("iteration", iteration, self.iterations.len())?;
        let iteration = &self.iterations[iteration - 1];
        let rows = match show {
            Show::Probabilities => &iteration.probabilities,
            Show::Logits => &iteration.logits,
        };
        let tokens = self.side * self.side;
        let values = match latents {
            Latents::One(latent) => {
                require("latent", latent, self.latents)?;
                rows[(latent - 1) * tokens..latent * tokens].to_vec()
            }
            Latents::Mean => {
                let mut mean = vec![0.0; tokens];
                for row in rows.chunks(tokens) {
                    for (mean, value) in mean.iter_mut().zip(row) {
                        *mean += value / self.latents as f32;
                    }
                }
                mean
            }
        };
        Ok(Map {
            values,
            side: self.side,
        })
    }

    /// Returns the latents, counted from 1, with the highest peak attention weight in an iteration,
    /// in descending order. At most `most` are returned, and only one per peak token.
    ///
    /// # Errors
    /// When the iteration does not exist.
    pub fn sharpest(&self, iteration: usize, most: usize) -> Result<Vec<usize>> {
        let mut peaks = Vec::with_capacity(self.latents);
        for latent in 1..=self.latents {
            let map = self.map(iteration, Latents::One(latent), Show::Probabilities)?;
            let (position, peak) = map.peak();
            peaks.push((latent, position, peak));
        }
        peaks.sort_by(|a, b| b.2.total_cmp(&a.2)); // stable: the first latent wins ties
        let mut positions = std::collections::BTreeSet::new();
        peaks.retain(|&(_, position, _)| positions.insert(position));
        Ok(peaks.iter().take(most).map(|peak| peak.0).collect())
    }
}

impl Map {
    /// Returns the first token with the highest value, and that value.
    pub(crate) fn peak(&self) -> (usize, f32) {
        let first = (0, f32::NEG_INFINITY);
        let values = self.values.iter().copied().enumerate();
        values.fold(
            first,
            |peak, next| if next.1 > peak.1 { next } else { peak },
        )
    }

    /// Returns the values rescaled to 0 (minimum) to 1 (maximum); all 0 if they are equal.
    pub fn stretched(&self) -> Vec<f32> {
        let least = self.values.iter().copied().fold(f32::INFINITY, f32::min);
        let width = self.peak().1 - least;
        let stretch = |value: f32| {
            if width > 0.0 {
                (value - least) / width
            } else {
                0.0
            }
        };
        self.values.iter().copied().map(stretch).collect()
    }
}

fn require(what: &'static str, found: usize, most: usize) -> Result<()> {
    if (1..=most).contains(&found) {
        return Ok(());
    }
    Err(ReportError::NotThere { what, most, found })
}

fn values(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    let tensor = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    tensor.flatten_all()?.to_vec1()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the attention of three latents on four tokens: two peak at token 2, one at token 0.
    fn known() -> Attention {
        let logits = vec![0.0, 0.0, 9.0, 0.0, 8.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 0.0];
        let probabilities = vec![0.0, 0.0, 1.0, 0.0, 0.9, 0.1, 0.0, 0.0, 0.1, 0.2, 0.6, 0.1];
        Attention {
            iterations: vec![Iteration {
                logits,
                probabilities,
            }],
            latents: 3,
            side: 2,
        }
    }

    #[test]
    fn the_mean_map_averages_the_latents() {
        for show in [Show::Probabilities, Show::Logits] {
            let known = known();
            let mean = known.map(1, Latents::Mean, show).unwrap();
            let all = [1, 2, 3].map(|latent| known.map(1, Latents::One(latent), show).unwrap());
            for (token, mean) in mean.values.iter().enumerate() {
                let sum: f32 = all.iter().map(|map| map.values[token]).sum();
                assert!((mean - sum / 3.0).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn the_sharpest_maps_have_different_peaks() {
        assert_eq!(known().sharpest(1, 5).unwrap(), [1, 2]);
        assert_eq!(known().sharpest(1, 1).unwrap(), [1]);
    }

    #[test]
    fn out_of_range_indices_are_rejected_by_number() {
        let known = known();
        let refused = |iteration, latents| {
            let map = known.map(iteration, latents, Show::Probabilities);
            map.unwrap_err().to_string()
        };
        assert_eq!(
            refused(0, Latents::Mean),
            "iteration: expected 1 to 1, found 0"
        );
        assert_eq!(
            refused(1, Latents::One(4)),
            "latent: expected 1 to 3, found 4"
        );
    }

    #[test]
    fn uniform_maps_have_no_hot_spot() {
        let map = Map {
            values: vec![0.25; 4],
            side: 2,
        };
        assert_eq!(map.stretched(), [0.0; 4]);
    }
}
