//! Downscaling with anti-aliasing.

use image::RgbImage;
use image::imageops::{self, FilterType};

use crate::dataset::image::Image;
use crate::decode::from_rgb;

impl Image {
    /// Downscales the image to a shorter side of `shorter_side` pixels and keeps its aspect ratio;
    /// returns it unchanged if it is already that small. Each new pixel is a weighted mean of all
    /// the old ones it covers (a triangle filter), so that fine patterns fade instead of aliasing.
    ///
    /// ```
    /// use perceiver_data::Image;
    ///
    /// let photo = Image::new(40, 60, vec![7; 3 * 40 * 60])?;
    /// assert_eq!(photo.shrunk_to(20), Image::new(20, 30, vec![7; 3 * 20 * 30])?);
    /// # Ok::<(), perceiver_data::DataError>(())
    /// ```
    #[must_use]
    pub fn shrunk_to(self, shorter_side: usize) -> Self {
        let small = shrunk_size(self.width(), self.height(), shorter_side);
        if small == (self.width(), self.height()) {
            return self;
        }
        let (height, width) = (self.height() as u32, self.width() as u32);
        let small = RgbImage::from_raw(width, height, self.to_interleaved())
            .and_then(|image| from_rgb(&shrunk(image, shorter_side)).ok());
        match small {
            Some(small) => small.shrunk_from(self.original_size()),
            None => self,
        }
    }
}

/// Computes [`Image::shrunk_to`] on interleaved pixels.
pub(crate) fn shrunk(image: RgbImage, shorter_side: usize) -> RgbImage {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let small = shrunk_size(width, height, shorter_side);
    if small == (width, height) {
        return image;
    }
    imageops::resize(&image, small.0 as u32, small.1 as u32, FilterType::Triangle)
}

/// Returns the bytes that [`shrunk`] takes in addition to the image, up to the resulting [`Image`].
pub(crate) fn shrinking_bytes(width: usize, height: usize, shorter_side: usize) -> u64 {
    let pixels = |width: usize, height: usize| (width as u64).saturating_mul(height as u64);
    let small = shrunk_size(width, height, shorter_side);
    let after = 2 * 3 * pixels(small.0, small.1);
    if small == (width, height) {
        return after / 2;
    }
    // The vertical pass comes first; its output has four floats per pixel.
    after + 16 * pixels(width, small.1)
}

/// Returns width and height after downscaling.
fn shrunk_size(width: usize, height: usize, shorter_side: usize) -> (usize, usize) {
    let shorter = height.min(width);
    let side = shorter_side.max(1);
    if shorter <= side {
        return (width, height);
    }
    let scaled = |length: usize| (length as f64 * side as f64 / shorter as f64).round() as usize;
    (scaled(width), scaled(height))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn downscaling_is_antialiased() {
        // Alternating columns of 0 and 255: every fourth pixel alone would be black.
        let stripes = RgbImage::from_fn(64, 32, |x, _| {
            image::Rgb([if x % 2 == 0 { 0 } else { 255 }; 3])
        });
        let small = from_rgb(&stripes).unwrap().shrunk_to(8);
        assert_eq!((small.height(), small.width()), (8, 16));
        assert!(
            small
                .pixels()
                .iter()
                .all(|&value| (100..=156).contains(&value))
        );
    }

    proptest! {
        #[test]
        fn downscaling_keeps_the_aspect_ratio(height in 1..60_usize, width in 1..60_usize, side in 0..70_usize) {
            let image = Image::new(height, width, vec![9; 3 * height * width]).unwrap();
            let small = image.clone().shrunk_to(side);
            let shorter = height.min(width);
            prop_assert_eq!(small.height().min(small.width()), shorter.min(side.max(1)));
            let scale = small.height().min(small.width()) as f64 / shorter as f64;
            // 45 * 0.7 is exactly a half and may round either way; 1e-9 covers the error of the
            // product.
            prop_assert!((small.width() as f64 - width as f64 * scale).abs() <= 0.5 + 1e-9);
            prop_assert!((small.height() as f64 - height as f64 * scale).abs() <= 0.5 + 1e-9);
            prop_assert!(small.pixels().iter().all(|&value| value == 9));
        }
    }
}
