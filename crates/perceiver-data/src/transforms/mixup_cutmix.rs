//! mixup (Zhang et al., "mixup: beyond empirical risk minimization", 2018) and CutMix (Yun et al.,
//! "CutMix: regularization strategy to train strong classifiers with localizable features", 2019).
//!
//! The partner of an image is drawn from the whole data set, or with shards from the window in
//! memory, not from the batch. So it does not depend on how batches are divided between ranks.

use perceiver_ops::RngKey;
use rand_distr::{Beta, Distribution};
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::transforms::rectangle::Rectangle;
use crate::transforms::uniform::uniform;

/// Options of mixup and CutMix. Off by default.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mixing {
    /// The share of images that are mixed; 1 by default, without effect while both methods are off.
    pub probability: f32,
    /// The parameter of mixup: images are blended with shares from `Beta(mixup, mixup)`; 0 is off.
    pub mixup: f32,
    /// The parameter of CutMix: a rectangle of the partner, with an area from
    /// `Beta(cutmix, cutmix)`, is pasted; 0 is off. If both methods are on, each is used for half
    /// of the mixed images.
    pub cutmix: f32,
}

/// The way one image is mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Mix {
    /// The index of the partner among its candidates.
    pub(crate) other: usize,
    /// The share of the image itself.
    pub(crate) share: f32,
    /// The rectangle of the partner in CutMix; `None` for mixup.
    pub(crate) pasted: Option<Rectangle>,
}

impl Default for Mixing {
    fn default() -> Self {
        Self::NONE
    }
}

impl Mixing {
    /// No mixing.
    pub const NONE: Self = Self {
        probability: 1.0,
        mixup: 0.0,
        cutmix: 0.0,
    };

    /// Whether any picture is mixed.
    pub fn is_on(&self) -> bool {
        self.probability > 0.0 && (self.mixup > 0.0 || self.cutmix > 0.0)
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let invalid = |option, expected: &str, found: f32| {
            Err(DataError::InvalidOption {
                option,
                expected: expected.to_owned(),
                found: found.to_string(),
            })
        };
        if !(0.0..=1.0).contains(&self.probability) {
            return invalid(
                "augmentation.mixing.probability",
                "0 to 1",
                self.probability,
            );
        }
        let alphas = [
            ("augmentation.mixing.mixup", self.mixup),
            ("augmentation.mixing.cutmix", self.cutmix),
        ];
        for (option, alpha) in alphas {
            if !(alpha.is_finite() && alpha >= 0.0) {
                return invalid(option, "a finite number of at least 0", alpha);
            }
        }
        Ok(())
    }

    /// Draws how to mix the image that `key` belongs to, with one of `candidates` candidates of
    /// `side` x `side` pixels.
    pub(crate) fn draw(&self, key: RngKey, candidates: usize, side: usize) -> Option<Mix> {
        if !self.is_on() || uniform(key, 0) >= self.probability {
            return None;
        }
        let other = key.below(1, candidates);
        let pastes = self.mixup == 0.0 || (self.cutmix > 0.0 && key.bits(2) >> 63 == 1);
        let alpha = if pastes { self.cutmix } else { self.mixup };
        let beta = Beta::new(alpha, alpha).ok()?;
        let share = beta.sample(&mut key.fold_in_name("share").rng());
        if !pastes {
            let pasted = None;
            return Some(Mix {
                other,
                share,
                pasted,
            });
        }
        let pasted = rectangle_about(side, 1.0 - share, uniform(key, 3), uniform(key, 4));
        Some(Mix {
            other,
            share: 1.0 - pasted.area() as f32 / (side * side) as f32, // after clipping
            pasted: Some(pasted),
        })
    }
}

/// Returns the rectangle of the CutMix paper: square, with this share of the image's area, around a
/// random centre and clipped at the border.
fn rectangle_about(side: usize, area: f32, down: f32, right: f32) -> Rectangle {
    let half = side as f32 * area.max(0.0).sqrt() / 2.0;
    let range = |at: f32| {
        let middle = at * side as f32;
        let end = ((middle + half).round() as usize).min(side);
        let start = (middle - half).max(0.0).round() as usize;
        (start.min(end), end)
    };
    let ((top, bottom), (left, right)) = (range(down), range(right));
    Rectangle {
        top,
        bottom,
        left,
        right,
    }
}

impl Mix {
    /// Mixes `other` into `image` in place, both `[3, side, side]`.
    pub(crate) fn apply(&self, image: &mut [f32], other: &[f32], side: usize) {
        match self.pasted {
            Some(rectangle) => {
                for row in rectangle.rows(side) {
                    image[row.clone()].copy_from_slice(&other[row]);
                }
            }
            None => {
                for (value, other) in image.iter_mut().zip(other) {
                    *value = other + self.share * (*value - other);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(mixing: Mixing) -> Vec<Mix> {
        let key = |number| RngKey::new(11).fold_in(number);
        (0..4_000)
            .filter_map(|number| mixing.draw(key(number), 50, 32))
            .collect()
    }

    #[test]
    fn the_mean_share_is_half_and_any_image_may_be_the_partner() {
        for (mixup, cutmix) in [(0.2, 0.0), (1.0, 0.0), (0.8, 1.0)] {
            let drawn = draws(Mixing {
                probability: 0.5,
                mixup,
                cutmix,
            });
            assert!((1_850..2_150).contains(&drawn.len()), "{}", drawn.len());
            assert!(drawn.iter().all(|mix| (0.0..=1.0).contains(&mix.share)));
            let blends: Vec<f32> = drawn
                .iter()
                .filter(|mix| mix.pasted.is_none())
                .map(|mix| mix.share)
                .collect();
            let mean = blends.iter().sum::<f32>() / blends.len() as f32;
            assert!((mean - 0.5).abs() < 0.04, "{mean}");
            for other in 0..50 {
                assert!(drawn.iter().any(|mix| mix.other == other));
            }
        }
    }

    #[test]
    fn the_share_is_the_remaining_area_of_the_image() {
        let drawn = draws(Mixing {
            probability: 1.0,
            mixup: 0.0,
            cutmix: 1.0,
        });
        assert_eq!(drawn.len(), 4_000);
        for mix in &drawn[..200] {
            let mut image = vec![1.0; 3 * 32 * 32];
            mix.apply(&mut image, &vec![0.0; 3 * 32 * 32], 32);
            let left = image.iter().sum::<f32>() / image.len() as f32;
            assert!((left - mix.share).abs() < 1e-5, "{left} of {mix:?}");
        }
    }

    #[test]
    fn mixup_is_the_weighted_mean() {
        let mix = Mix {
            other: 0,
            share: 0.75,
            pasted: None,
        };
        let mut image = vec![4.0; 3];
        mix.apply(&mut image, &[0.0, 4.0, 8.0], 1);
        assert_eq!(image, [3.0, 4.0, 5.0]);
    }
}
