//! Geometric augmentation of training images: Keras's `RandomFlip("horizontal")`, `RandomZoom` with
//! independent factors for height and width, and the shift of a random crop of a padded image.
//!
//! The augmentation of an image is a function of an [`RngKey`] alone, so an epoch can be repeated
//! or resumed anywhere.
//!
//! ```
//! use perceiver_data::{Augmentation, Draw};
//! use perceiver_ops::RngKey;
//!
//! assert_eq!(Augmentation::default().draw(RngKey::new(7)), Draw::NONE);
//! ```

use perceiver_ops::RngKey;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::transforms::mixup_cutmix::Mixing;
use crate::transforms::rand_augment::RandAugment;
use crate::transforms::random_erasing::Erasing;
use crate::transforms::uniform::uniform;

/// Options of random augmentation. None by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentation {
    /// Horizontal flip with probability 1/2.
    pub horizontal_flip: bool,
    /// Whether the flip alternates: an image is flipped in every other epoch, from the first or the
    /// second on, at random. So two epochs show both sides of every image (Jordan, "94% on CIFAR-10
    /// in 3.29 seconds on a single GPU", 2024, section 3.6). Needs `horizontal_flip`.
    pub alternating_flip: bool,
    /// Zoom of height and width by independent factors from `[1 - zoom, 1 + zoom]`; 0 is off.
    pub zoom: f32,
    /// Shift by up to this share of height and width, in whole pixels of the input, filled with the
    /// mean colour: a random crop of an image padded by that much on every side. 0 is off; 0.125 is
    /// the usual 4 of 32 pixels for CIFAR.
    pub shift: f32,
    /// RandAugment: changes of colour and shape.
    pub rand_augment: RandAugment,
    /// Random erasing of rectangles.
    pub erasing: Erasing,
    /// mixup and CutMix.
    pub mixing: Mixing,
}

/// The geometric augmentation of one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// Whether it is flipped horizontally.
    pub flip: bool,
    /// The zoom factor of the height; above 1 the image looks smaller.
    pub height_zoom: f32,
    /// The zoom factor of the width.
    pub width_zoom: f32,
    /// The shift down, as a share of the height.
    pub down: f32,
    /// The shift to the right, as a share of the width.
    pub right: f32,
}

impl Draw {
    /// No augmentation, as in evaluation.
    pub const NONE: Self = Self {
        flip: false,
        height_zoom: 1.0,
        width_zoom: 1.0,
        down: 0.0,
        right: 0.0,
    };
}

impl Augmentation {
    /// Returns an error for a zoom or shift outside `[0, 1)`, and for invalid nested options.
    pub fn validate(&self) -> Result<()> {
        let shares = [
            ("augmentation.zoom", self.zoom),
            ("augmentation.shift", self.shift),
        ];
        for (option, share) in shares {
            if !(0.0..1.0).contains(&share) {
                return Err(DataError::InvalidOption {
                    option,
                    expected: "at least 0 and less than 1".to_owned(),
                    found: share.to_string(),
                });
            }
        }
        if self.alternating_flip && !self.horizontal_flip {
            return Err(DataError::InvalidOption {
                option: "augmentation.alternating_flip",
                expected: "false without augmentation.horizontal_flip".to_owned(),
                found: "true".to_owned(),
            });
        }
        self.rand_augment.validate()?;
        self.erasing.validate()?;
        self.mixing.validate()
    }

    /// Returns whether an image is flipped in `epoch`, from 0, if the flip alternates. `key` is of the
    /// image, the same in all epochs.
    pub fn alternating_flip_in(&self, epoch: usize, key: RngKey) -> Option<bool> {
        let starts_flipped = key.bits(0) >> 63 == 1;
        self.alternating_flip
            .then_some(starts_flipped ^ (epoch % 2 == 1))
    }

    /// Draws the augmentation of the image that `key` belongs to. If the flip alternates, its flip is
    /// to be replaced by that of [`Augmentation::alternating_flip_in`].
    pub fn draw(&self, key: RngKey) -> Draw {
        let spread = |index| 2.0 * uniform(key, index) - 1.0;
        Draw {
            flip: self.horizontal_flip && key.bits(0) >> 63 == 1,
            height_zoom: 1.0 + self.zoom * spread(1),
            width_zoom: 1.0 + self.zoom * spread(2),
            down: self.shift * spread(3),
            right: self.shift * spread(4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERAS: Augmentation = Augmentation {
        horizontal_flip: true,
        alternating_flip: false,
        zoom: 0.2,
        shift: 0.0,
        rand_augment: RandAugment::NONE,
        erasing: Erasing::NONE,
        mixing: Mixing::NONE,
    };

    #[test]
    fn draws_are_uniform_and_independent() {
        let n = 10_000_u32;
        let draws: Vec<Draw> = (0..n)
            .map(|i| KERAS.draw(RngKey::new(1).fold_in(u64::from(i))))
            .collect();
        let mean = |f: &dyn Fn(&Draw) -> f32| draws.iter().map(f).sum::<f32>() / n as f32;

        // Within four standard errors of uniform, independent draws.
        assert!((mean(&|d| f32::from(u8::from(d.flip))) - 0.5).abs() < 0.02);
        for zoom in [
            |d: &Draw| d.height_zoom - 1.0,
            |d: &Draw| d.width_zoom - 1.0,
        ] {
            assert!(draws.iter().all(|d| zoom(d).abs() <= 0.2));
            assert!(mean(&zoom).abs() < 0.005);
            assert!((mean(&|d| zoom(d) * zoom(d)) - 0.04 / 3.0).abs() < 5e-4);
        }
        let covariance = mean(&|d| (d.height_zoom - 1.0) * (d.width_zoom - 1.0));
        assert!(covariance.abs() < 5.5e-4);
    }

    #[test]
    fn alternating_flips_start_at_random_and_show_both_sides_in_two_epochs() {
        let alternating = Augmentation {
            alternating_flip: true,
            ..KERAS
        };
        let flips = |epoch| {
            let keys = (0..1000).map(|image| RngKey::new(3).fold_in(image));
            let flips = keys.map(|key| alternating.alternating_flip_in(epoch, key).unwrap());
            flips.collect::<Vec<bool>>()
        };
        let first = flips(0);
        let flipped = first.iter().filter(|&&flip| flip).count();
        assert!((430..570).contains(&flipped), "{flipped}"); // four standard errors
        let opposite: Vec<bool> = first.iter().map(|flip| !flip).collect();
        assert_eq!(flips(1), opposite);
        assert_eq!(flips(2), first);
        assert_eq!(KERAS.alternating_flip_in(0, RngKey::new(3)), None);
        let without = Augmentation {
            horizontal_flip: false,
            ..alternating
        };
        assert!(alternating.validate().is_ok() && without.validate().is_err());
    }

    #[test]
    fn zoom_out_of_range_is_rejected() {
        for zoom in [-0.1, 1.0, f32::NAN] {
            let wrong = Augmentation { zoom, ..KERAS };
            assert!(matches!(
                wrong.validate(),
                Err(DataError::InvalidOption { .. })
            ));
        }
        assert!(KERAS.validate().is_ok());
    }

    #[test]
    fn misspelled_options_are_rejected() {
        let text = r#"{"horizontal_flip": true, "zoom": 0.2, "zooom": 0.1}"#;
        assert!(serde_json::from_str::<Augmentation>(text).is_err());
    }
}
