//! Shrinking of pictures without false patterns.

use image::RgbImage;
use image::imageops::{self, FilterType};

use crate::decode::from_rgb;
use crate::image::Image;

impl Image {
    /// The picture shrunk until its shorter side has `shorter_side` pixels, its shape kept; the picture itself if
    /// it is that small already. Each new pixel is a weighted mean of all the old ones it covers (a triangle
    /// filter), so that fine patterns fade instead of turning into false ones.
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
        let shorter = self.height().min(self.width());
        let side = shorter_side.max(1);
        if shorter <= side {
            return self;
        }
        let scaled = |length: usize| (length as f64 * side as f64 / shorter as f64).round() as u32;
        let (height, width) = (scaled(self.height()), scaled(self.width()));
        RgbImage::from_raw(
            self.width() as u32,
            self.height() as u32,
            self.to_interleaved(),
        )
        .map(|picture| imageops::resize(&picture, width, height, FilterType::Triangle))
        .and_then(|small| from_rgb(&small).ok())
        .unwrap_or(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shrinking_averages_fine_patterns() {
        // Columns of 0 and 255 in turns: every fourth pixel alone would be black.
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
        fn shrinking_keeps_the_shape(height in 1..60_usize, width in 1..60_usize, side in 0..70_usize) {
            let picture = Image::new(height, width, vec![9; 3 * height * width]).unwrap();
            let small = picture.clone().shrunk_to(side);
            let shorter = height.min(width);
            prop_assert_eq!(small.height().min(small.width()), shorter.min(side.max(1)));
            let scale = small.height().min(small.width()) as f64 / shorter as f64;
            // 45 * 0.7 is a half and rounds either way; 1e-9 is for the product, which is no exact half.
            prop_assert!((small.width() as f64 - width as f64 * scale).abs() <= 0.5 + 1e-9);
            prop_assert!((small.height() as f64 - height as f64 * scale).abs() <= 0.5 + 1e-9);
            prop_assert!(small.pixels().iter().all(|&value| value == 9));
        }
    }
}
