//! Attention maps as color overlays on an image.

use image::ExtendedColorType;
use perceiver_data::{CHANNELS, Image, Interpolation, resample};
use plotters::style::colors::colormaps::ViridisRGB;

use crate::attention::Map;
use crate::data_url::png_address;
use crate::error::Result;

/// The opacity of the color at the minimum of a map, and what is added to it at the maximum.
const COVER: (f32, f32) = (0.35, 0.4);

/// Returns the color of a value from 0 (dark violet) to 1 (yellow). The color map is viridis, whose
/// brightness rises also for color-blind readers.
pub(crate) fn colour(value: f32) -> [u8; CHANNELS] {
    let colour = ViridisRGB::get_color(value.clamp(0.0, 1.0));
    [colour.0, colour.1, colour.2]
}

fn cover(value: f32) -> f32 {
    COVER.0 + COVER.1 * value
}

/// Overlays an attention map on an image. Both are resized to `size` x `size` pixels, as the model
/// resizes images. The minimum of the map is violet, its maximum yellow.
///
/// # Errors
/// When `size` is 0.
pub fn overlay(image: &Image, map: &Map, size: usize) -> Result<Image> {
    let mut pixels = stretched(image, size)?.pixels().to_vec();
    let taps = Interpolation::resize(map.side, size, false);
    let values = resample(&map.stretched(), &taps, &taps);
    for (at, &value) in values.iter().enumerate() {
        let colour = colour(value);
        for channel in 0..CHANNELS {
            let pixel = &mut pixels[channel * size * size + at];
            let (below, above) = (f32::from(*pixel), f32::from(colour[channel]));
            *pixel = (below + (above - below) * cover(value)).round() as u8;
        }
    }
    Ok(Image::new(size, size, pixels)?)
}

/// Resizes an image to a square of `size` x `size` pixels, ignoring its aspect ratio.
///
/// # Errors
/// When `size` is 0.
pub fn stretched(image: &Image, size: usize) -> Result<Image> {
    let plane = image.height() * image.width();
    let rows = Interpolation::resize(image.height(), size.max(1), true);
    let columns = Interpolation::resize(image.width(), size.max(1), true);
    let mut pixels = Vec::with_capacity(CHANNELS * size * size);
    for plane in image.pixels().chunks(plane) {
        let plane: Vec<f32> = plane.iter().copied().map(f32::from).collect();
        let plane = resample(&plane, &rows, &columns);
        pixels.extend(plane.iter().map(|value| value.round() as u8));
    }
    Ok(Image::new(size, size, pixels)?)
}

/// Encodes an attention map as the `data:` URL of a PNG with one pixel per token, whose opacity
/// rises from 0 at the minimum to 1 at the maximum: where attention is low, the image below keeps
/// its colors.
///
/// # Errors
/// When the map cannot be encoded.
pub fn map_address(map: &Map) -> Result<String> {
    let side = map.side as u32;
    let pixels: Vec<u8> = map
        .stretched()
        .into_iter()
        .flat_map(|value| {
            let [red, green, blue] = colour(value);
            [red, green, blue, (255.0 * value.sqrt()).round() as u8]
        })
        .collect();
    png_address(&pixels, (side, side), ExtendedColorType::Rgba8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brightest_pixel_has_the_highest_attention() {
        let image = Image::new(4, 8, vec![100; 3 * 32]).unwrap();
        let map = Map {
            values: vec![0.0, 0.0, 1.0, 0.0],
            side: 2,
        };
        let shown = overlay(&image, &map, 64).unwrap();
        assert_eq!((shown.height(), shown.width()), (64, 64));
        // Green rises along viridis: the lower left is the token in row 2, column 1.
        let green = &shown.pixels()[64 * 64..2 * 64 * 64];
        let [low, high] = [green[0], green[63 * 64]];
        assert!(high > low + 50, "{low}, {high}");
        assert_eq!(green.iter().max(), Some(&high));
    }

    #[test]
    fn a_size_of_zero_is_rejected() {
        let image = Image::new(1, 1, vec![0; 3]).unwrap();
        assert!(stretched(&image, 0).is_err());
    }
}
