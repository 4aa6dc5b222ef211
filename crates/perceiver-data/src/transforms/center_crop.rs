//! Center crop before resizing, as the image processor of Perceiver IO in transformers has it.
//!
//! The crop is a share of the shorter side, `size / crop_size`, so that the resized crop is what a
//! crop of `size` pixels from an image of `crop_size` pixels would be.

use serde::{Deserialize, Serialize};

use crate::dataset::image::{CHANNELS, Image};
use crate::error::{DataError, Result};

/// The rounding of a crop's offset when the pixels around it are odd in number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CropOffset {
    /// `floor((len - cropped) / 2)`: transformers.
    #[default]
    Floor,
    /// `ceil((len - cropped) / 2)`: the training code in `deepmind-research`, one pixel further down
    /// or right.
    Ceil,
}

impl CropOffset {
    /// Returns whether this is the rounding of transformers.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
    pub(crate) fn is_floor(&self) -> bool {
        *self == Self::Floor
    }

    /// Returns the first pixel of a crop of `cropped` pixels from an axis of `len`.
    fn start(self, len: usize, cropped: usize) -> usize {
        let around = len - cropped;
        match self {
            Self::Floor => around / 2,
            Self::Ceil => around.div_ceil(2),
        }
    }
}

/// Returns the side of the crop, `trunc(size / crop_size * shorter_side)`, and at least one pixel.
pub(crate) fn cropped_side(size: usize, crop_size: usize, shorter_side: usize) -> usize {
    // The quotient is rounded before the product, as in transformers.
    let share = size as f64 / crop_size as f64;
    ((share * shorter_side as f64) as usize).max(1)
}

/// Crops the middle `height` times `width` pixels of an image.
///
/// # Errors
/// When the crop is empty or larger than the image.
pub fn center_crop(
    image: &Image,
    height: usize,
    width: usize,
    offset: CropOffset,
) -> Result<Image> {
    let (image_height, image_width) = (image.height(), image.width());
    if !(1..=image_height).contains(&height) || !(1..=image_width).contains(&width) {
        return Err(DataError::InvalidOption {
            option: "center crop",
            expected: format!("height 1 to {image_height} and width 1 to {image_width}"),
            found: format!("height {height} and width {width}"),
        });
    }
    let top = offset.start(image_height, height);
    let left = offset.start(image_width, width);
    let mut pixels = Vec::with_capacity(CHANNELS * height * width);
    for plane in image.pixels().chunks_exact(image_height * image_width) {
        for row in plane.chunks_exact(image_width).skip(top).take(height) {
            pixels.extend_from_slice(&row[left..left + width]);
        }
    }
    Image::new(height, width, pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4 x 5 pixels, each with its own number.
    fn numbered() -> Image {
        Image::new(4, 5, (0..60).collect()).unwrap()
    }

    #[test]
    fn offsets_round_down_or_up() {
        let crop = |offset| center_crop(&numbered(), 3, 3, offset).unwrap();
        let floor = crop(CropOffset::Floor);
        assert_eq!(floor.pixels()[..9], [1, 2, 3, 6, 7, 8, 11, 12, 13]);
        let ceil = crop(CropOffset::Ceil);
        assert_eq!(ceil.pixels()[..9], [6, 7, 8, 11, 12, 13, 16, 17, 18]);
        assert_eq!(ceil.pixels()[9..12], [26, 27, 28]);
    }

    #[test]
    fn the_whole_image_is_its_own_crop() {
        for offset in [CropOffset::Floor, CropOffset::Ceil] {
            let cropped = center_crop(&numbered(), 4, 5, offset).unwrap();
            assert_eq!(cropped, numbered());
        }
    }

    #[test]
    fn crops_that_do_not_fit_are_rejected() {
        for (height, width) in [(0, 1), (1, 0), (5, 5), (4, 6)] {
            let cropped = center_crop(&numbered(), height, width, CropOffset::Floor);
            let message = cropped.unwrap_err().to_string();
            assert!(
                message.contains("expected height 1 to 4 and width 1 to 5"),
                "{message}"
            );
        }
    }

    #[test]
    fn the_side_is_a_truncated_share_of_the_shorter_side() {
        for (shorter_side, side) in [(256, 224), (231, 202), (33, 28), (47, 41), (2, 1), (1, 1)] {
            assert_eq!(cropped_side(224, 256, shorter_side), side);
        }
    }
}
