//! Random changes of training pictures that leave their class alone: Keras's `RandomFlip("horizontal")`, `RandomZoom` with
//! independent factors for height and width, and the shift that a random crop of a padded picture is.
//!
//! What happens to a picture is a function of a [`Key`] alone, so an epoch can be repeated or resumed anywhere.
//!
//! ```
//! use perceiver_data::{Augmentation, Draw};
//! use perceiver_ops::Key;
//!
//! assert_eq!(Augmentation::default().draw(Key::new(7)), Draw::NONE);
//! ```

use perceiver_ops::Key;
use serde::{Deserialize, Serialize};

use crate::erase::Erasing;
use crate::error::{DataError, Result};
use crate::mix::Mixing;
use crate::rand_augment::RandAugment;

/// Which random changes to make. None by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentation {
    /// Mirror every other picture.
    pub horizontal_flip: bool,
    /// Zoom height and width by factors drawn independently from `[1 - zoom, 1 + zoom]`; 0 is no zoom.
    pub zoom: f32,
    /// Move by up to this share of height and width, in whole pixels of the input, to let the mean colour in: a random crop of a
    /// picture padded by so much on every side. 0 is no shift; 0.125 are the usual 4 pixels of CIFAR's 32.
    pub shift: f32,
    /// Changes of colour and shape.
    pub rand_augment: RandAugment,
    /// Rectangles without content.
    pub erasing: Erasing,
    /// Pictures mixed with others.
    pub mixing: Mixing,
}

/// What happens to one picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// Whether it is mirrored, left to right.
    pub flip: bool,
    /// How much of its height it shows; above 1 it looks smaller.
    pub height_zoom: f32,
    /// How much of its width it shows.
    pub width_zoom: f32,
    /// How far it moves down, as a share of the height.
    pub down: f32,
    /// How far it moves to the right, as a share of the width.
    pub right: f32,
}

impl Draw {
    /// Nothing happens: what evaluation uses.
    pub const NONE: Self = Self {
        flip: false,
        height_zoom: 1.0,
        width_zoom: 1.0,
        down: 0.0,
        right: 0.0,
    };
}

impl Augmentation {
    /// Refuses a zoom or shift outside `[0, 1)`, and what its parts refuse.
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
        self.rand_augment.validate()?;
        self.erasing.validate()?;
        self.mixing.validate()
    }

    /// What happens to the picture that `key` belongs to.
    pub fn draw(&self, key: Key) -> Draw {
        let spread = |index| 2.0 * unit(key, index) - 1.0;
        Draw {
            flip: self.horizontal_flip && key.bits(0) >> 63 == 1,
            height_zoom: 1.0 + self.zoom * spread(1),
            width_zoom: 1.0 + self.zoom * spread(2),
            down: self.shift * spread(3),
            right: self.shift * spread(4),
        }
    }
}

/// The `index`-th uniform number in `[0, 1)` of a key, of the 24 bits that an `f32` holds.
pub(crate) fn unit(key: Key, index: u64) -> f32 {
    (key.bits(index) >> 40) as f32 / (1_u32 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERAS: Augmentation = Augmentation {
        horizontal_flip: true,
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
            .map(|i| KERAS.draw(Key::new(1).fold_in(u64::from(i))))
            .collect();
        let mean = |f: &dyn Fn(&Draw) -> f32| draws.iter().map(f).sum::<f32>() / n as f32;

        // Within four standard errors of what uniform, independent draws have.
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
    fn zoom_has_to_leave_something() {
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
    fn misspelt_options_are_refused() {
        let text = r#"{"horizontal_flip": true, "zoom": 0.2, "zooom": 0.1}"#;
        assert!(serde_json::from_str::<Augmentation>(text).is_err());
    }
}
