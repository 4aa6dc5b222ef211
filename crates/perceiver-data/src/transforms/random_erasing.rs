//! Random erasing of a rectangle (Zhong et al., "Random erasing data augmentation", 2020).

use perceiver_ops::RngKey;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::transforms::rectangle::Rectangle;
use crate::transforms::uniform::uniform;

/// The range of the erased share of the image, as in the paper.
const AREA: [f32; 2] = [0.02, 0.33];

/// The smallest aspect ratio, as in the paper: height over width, or width over height.
const ASPECT: f32 = 0.3;

/// The largest number of attempts to draw a rectangle inside the image, as in the paper's code.
const ATTEMPTS: u64 = 10;

/// Options of random erasing: a rectangle is filled with the mean colour. Off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Erasing {
    /// The probability that a rectangle of an image is erased.
    pub probability: f32,
}

impl Erasing {
    /// No erasing.
    pub const NONE: Self = Self { probability: 0.0 };

    pub(crate) fn validate(self) -> Result<()> {
        if (0.0..=1.0).contains(&self.probability) {
            return Ok(());
        }
        Err(DataError::InvalidOption {
            option: "augmentation.erasing.probability",
            expected: "0 to 1".to_owned(),
            found: self.probability.to_string(),
        })
    }

    /// Draws the rectangle to erase of the image that `key` belongs to, of `side` x `side` pixels.
    pub(crate) fn draw(self, key: RngKey, side: usize) -> Option<Rectangle> {
        if uniform(key, 0) >= self.probability {
            return None;
        }
        (0..ATTEMPTS).find_map(|attempt| {
            let draw = |number| uniform(key, 1 + 4 * attempt + number);
            let area = (side * side) as f32 * (AREA[0] + (AREA[1] - AREA[0]) * draw(0));
            let aspect = (ASPECT.ln() * (2.0 * draw(1) - 1.0)).exp();
            let height = (area * aspect).sqrt().round() as usize;
            let width = (area / aspect).sqrt().round() as usize;
            if !(1..side).contains(&height) || !(1..side).contains(&width) {
                return None;
            }
            let top = (draw(2) * (side - height + 1) as f32) as usize;
            let left = (draw(3) * (side - width + 1) as f32) as usize;
            Some(Rectangle {
                top,
                bottom: top + height,
                left,
                right: left + width,
            })
        })
    }
}

/// Sets the rectangle of `image` `[3, side, side]` to 0, the mean colour of normalized images.
pub(crate) fn erase(image: &mut [f32], side: usize, rectangle: Rectangle) {
    for row in rectangle.rows(side) {
        image[row].fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probability_and_area_are_those_of_the_paper() {
        let erasing = Erasing { probability: 0.25 };
        let drawn: Vec<Rectangle> = (0..4_000)
            .filter_map(|number| erasing.draw(RngKey::new(3).fold_in(number), 32))
            .collect();
        assert!(
            (900..1_100).contains(&drawn.len()),
            "{} of 4,000",
            drawn.len()
        );
        for rectangle in &drawn {
            assert!(rectangle.bottom <= 32 && rectangle.right <= 32);
            let share = rectangle.area() as f32 / 1024.0;
            assert!((0.01..0.36).contains(&share), "{rectangle:?}");
        }
        let mean = drawn.iter().map(Rectangle::area).sum::<usize>() / drawn.len();
        assert!((150..190).contains(&mean), "{mean} pixels on average"); // below 17.5% of 1,024
    }

    #[test]
    fn only_the_rectangle_is_erased_in_all_channels() {
        let mut image = vec![1.0; 3 * 16];
        let rectangle = Rectangle {
            top: 1,
            bottom: 3,
            left: 2,
            right: 3,
        };
        erase(&mut image, 4, rectangle);
        let erased: Vec<usize> = (0..48).filter(|&at| image[at] == 0.0).collect();
        assert_eq!(erased, [6, 10, 22, 26, 38, 42]);
    }
}
