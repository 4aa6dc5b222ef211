//! Images as `data:` URLs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::imageops::{self, FilterType as Shrinking};
use image::{ExtendedColorType, ImageEncoder, RgbImage};
use perceiver_data::Image;

use crate::error::Result;

/// The maximum side length in pixels; larger images are downscaled.
const LONGEST_SIDE: u32 = 128;

/// Encodes an image as the `data:` URL of a PNG, downscaled to at most 128 pixels a side.
///
/// # Errors
/// When the image cannot be encoded.
pub fn data_address(image: &Image) -> Result<String> {
    let (height, width) = (image.height() as u32, image.width() as u32);
    let longest = height.max(width);
    if longest <= LONGEST_SIDE {
        let pixels = image.to_interleaved();
        return png_address(&pixels, (width, height), ExtendedColorType::Rgb8);
    }
    let shrunk = |side: u32| (side * LONGEST_SIDE / longest).max(1);
    let Some(whole) = RgbImage::from_raw(width, height, image.to_interleaved()) else {
        return png_address(
            &image.to_interleaved(),
            (width, height),
            ExtendedColorType::Rgb8,
        );
    };
    let small = imageops::resize(&whole, shrunk(width), shrunk(height), Shrinking::Triangle);
    png_address(&small, small.dimensions(), ExtendedColorType::Rgb8)
}

/// Encodes pixels of size (width, height) as the `data:` URL of a PNG.
///
/// # Errors
/// When the number of pixels does not match the size.
pub(crate) fn png_address(
    pixels: &[u8],
    (width, height): (u32, u32),
    colour: ExtendedColorType,
) -> Result<String> {
    let mut png = Vec::new();
    PngEncoder::new_with_quality(&mut png, CompressionType::Best, FilterType::Adaptive)
        .write_image(pixels, width, height, colour)?;
    Ok(format!("data:image/png;base64,{}", STANDARD.encode(png)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn decoded(address: &str) -> Image {
        let base64 = address.strip_prefix("data:image/png;base64,").unwrap();
        Image::decode(&STANDARD.decode(base64).unwrap(), Path::new("address")).unwrap()
    }

    #[test]
    fn small_images_are_unchanged_and_large_ones_keep_their_aspect_ratio() {
        let small = Image::new(2, 3, (0..18).collect()).unwrap();
        assert_eq!(decoded(&data_address(&small).unwrap()), small);
        let large = Image::new(64, 512, vec![7; 3 * 64 * 512]).unwrap();
        let shrunk = decoded(&data_address(&large).unwrap());
        assert_eq!((shrunk.height(), shrunk.width()), (16, 128));
        assert!(shrunk.pixels().iter().all(|&value| value == 7));
    }
}
