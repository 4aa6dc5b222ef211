//! Pillow's `Image.resize` of 8-bit RGB images, equal to the byte.
//!
//! transformers resizes with it, so its checkpoints see exactly these bytes. The arithmetic is that
//! of Pillow's `Resample.c`: weights in fixed point, one axis after the other, and bytes in between.
//! Shrinking is always anti-aliased.
//!
//! The width is resized first, but from Pillow 13 on the height if it loses far more pixels. The
//! order changes bytes only through the rounding and clipping in between, and a square that is
//! resized to a square, as for Perceiver IO, is equal in all releases.
//!
//! ```
//! use perceiver_data::{Image, PillowFilter, pillow_resize};
//!
//! let image = Image::new(1, 2, [0, 100].repeat(3))?;
//! let wide = pillow_resize(&image, 1, 4, PillowFilter::Bicubic)?;
//! assert_eq!(wide.pixels()[..4], [0, 21, 79, 109]);
//! # Ok::<(), perceiver_data::DataError>(())
//! ```

pub(crate) mod coefficients;
pub(crate) mod filter;

use crate::dataset::image::{CHANNELS, Image};
use crate::error::{DataError, Result};
use crate::transforms::pillow_resize::coefficients::Coefficients;
use crate::transforms::pillow_resize::filter::PillowFilter;

/// The largest side of a resized image; a larger one is taken for a mistake.
const MAX_SIDE: usize = 65_535;

/// Resizes an image to `height` times `width` pixels as Pillow does.
///
/// # Errors
/// When a side is 0 or above 65,535.
pub fn pillow_resize(
    image: &Image,
    height: usize,
    width: usize,
    filter: PillowFilter,
) -> Result<Image> {
    if [height, width]
        .iter()
        .any(|side| !(1..=MAX_SIDE).contains(side))
    {
        return Err(DataError::InvalidOption {
            option: "size",
            expected: format!("height and width of 1 to {MAX_SIDE} pixels"),
            found: format!("height {height} and width {width}"),
        });
    }
    let columns = Coefficients::new(image.width(), width, filter);
    let rows = Coefficients::new(image.height(), height, filter);
    let mut pixels = Vec::with_capacity(CHANNELS * height * width);
    let height_first = is_height_first(image, height, width);
    for plane in image.pixels().chunks_exact(image.height() * image.width()) {
        if height_first {
            let short = rows.along_columns(plane, image.width());
            pixels.extend_from_slice(&columns.along_rows(&short));
        } else {
            let narrow = columns.along_rows(plane);
            pixels.extend_from_slice(&rows.along_columns(&narrow, width));
        }
    }
    Image::new(height, width, pixels)
}

/// Returns whether Pillow 13 resizes the height first: if it loses more than twice as many pixels
/// as the width.
fn is_height_first(image: &Image, height: usize, width: usize) -> bool {
    let lost = |before: usize, after: usize| before.cast_signed() - after.cast_signed();
    let rows = lost(image.height(), height);
    rows > 0 && rows > 2 * lost(image.width(), width)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(height: usize, width: usize) -> Image {
        let bytes = (0..3 * height * width).map(|i| (i * i * 37 % 251) as u8);
        Image::new(height, width, bytes.collect()).unwrap()
    }

    #[test]
    fn an_image_of_the_same_size_keeps_its_bytes() {
        let image = noise(7, 12);
        for filter in PillowFilter::ALL {
            assert_eq!(pillow_resize(&image, 7, 12, filter).unwrap(), image);
        }
    }

    #[test]
    fn invalid_sizes_are_rejected() {
        for (height, width) in [(0, 4), (4, 0), (MAX_SIDE + 1, 1), (1, usize::MAX)] {
            let resized = pillow_resize(&noise(2, 2), height, width, PillowFilter::Bicubic);
            let message = resized.unwrap_err().to_string();
            assert!(message.starts_with("size: expected height"), "{message}");
        }
    }

    /// Both resize the axis that shrinks first.
    #[test]
    fn transposed_images_resize_to_transposed_images() {
        let image = noise(9, 20);
        let transposed = |image: &Image| {
            let (height, width) = (image.height(), image.width());
            let pixels = (0..3).flat_map(|channel| {
                (0..width).flat_map(move |column| {
                    (0..height).map(move |row| (channel * height + row) * width + column)
                })
            });
            let pixels = pixels.map(|at| image.pixels()[at]).collect();
            Image::new(width, height, pixels).unwrap()
        };
        assert!(!is_height_first(&image, 23, 6));
        assert!(is_height_first(&transposed(&image), 6, 23));
        for filter in PillowFilter::ALL {
            let wide = pillow_resize(&image, 23, 6, filter).unwrap();
            let tall = pillow_resize(&transposed(&image), 6, 23, filter).unwrap();
            assert_eq!(transposed(&tall), wide, "{filter:?}");
        }
    }

    #[test]
    fn the_height_is_resized_first_if_it_loses_more_than_twice_as_many_pixels() {
        let image = noise(20, 20);
        for (height, width, first) in [
            (10, 15, false),
            (10, 16, true),
            (19, 20, true),
            (20, 30, false),
        ] {
            assert_eq!(
                is_height_first(&image, height, width),
                first,
                "{height} x {width}"
            );
        }
    }

    proptest! {
        #[test]
        fn resized_pixels_stay_near_the_range_of_the_input(
            (height, width) in (1_usize..60, 1_usize..60),
            (new_height, new_width) in (1_usize..60, 1_usize..60),
            filter in prop::sample::select(PillowFilter::ALL.to_vec()),
            (low, range) in (0_u8..100, 0_u8..50),
        ) {
            let pixels = noise(height, width).pixels().iter().map(|byte| low + byte % (range + 1)).collect();
            let image = Image::new(height, width, pixels).unwrap();
            let resized = pillow_resize(&image, new_height, new_width, filter).unwrap();
            prop_assert_eq!((resized.height(), resized.width()), (new_height, new_width));
            let overshoot = match filter {
                PillowFilter::Bicubic | PillowFilter::Lanczos => range,
                _ => 0,
            };
            let allowed = low.saturating_sub(overshoot)..=low + range + overshoot;
            prop_assert!(resized.pixels().iter().all(|byte| allowed.contains(byte)));
        }

        #[test]
        fn constant_images_stay_constant(
            (height, width) in (1_usize..60, 1_usize..60),
            (new_height, new_width) in (1_usize..60, 1_usize..60),
            filter in prop::sample::select(PillowFilter::ALL.to_vec()),
            byte: u8,
        ) {
            let image = Image::new(height, width, vec![byte; 3 * height * width]).unwrap();
            let resized = pillow_resize(&image, new_height, new_width, filter).unwrap();
            prop_assert!(resized.pixels().iter().all(|resized| *resized == byte));
        }
    }
}
