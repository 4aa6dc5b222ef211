//! RandAugment (Cubuk et al., "RandAugment: practical automated data augmentation with a reduced
//! search space", 2020): a number of random operations in sequence, of a strength set by the
//! magnitude.
//!
//! The operations are the paper's, on the 8-bit image before resizing. Geometric ones interpolate
//! linearly and fill with grey.

use std::borrow::Cow;

use perceiver_ops::RngKey;
use serde::{Deserialize, Serialize};

use crate::dataset::image::{CHANNELS, Image};
use crate::error::{DataError, Result};
use crate::transforms::uniform::uniform;

/// The largest magnitude, as in the paper.
const STRONGEST: f32 = 10.0;

/// The fill value of geometric operations.
const GREY: f32 = 128.0;

/// Options of RandAugment. Off by default.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RandAugment {
    /// The number of operations per image.
    pub layers: usize,
    /// The magnitude of the operations, up to 10.
    pub magnitude: f32,
}

/// An operation; `strength` is in `[0, 1]`, and `sign` is 1 or -1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Identity,
    AutoContrast,
    Equalize,
    Invert,
    Posterize,
    Solarize,
    Brightness,
    Contrast,
    Colour,
    Sharpness,
    Rotate,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
}

const CHANGES: [Change; 15] = [
    Change::Identity,
    Change::AutoContrast,
    Change::Equalize,
    Change::Invert,
    Change::Posterize,
    Change::Solarize,
    Change::Brightness,
    Change::Contrast,
    Change::Colour,
    Change::Sharpness,
    Change::Rotate,
    Change::ShearX,
    Change::ShearY,
    Change::TranslateX,
    Change::TranslateY,
];

impl Default for RandAugment {
    fn default() -> Self {
        Self::NONE
    }
}

impl RandAugment {
    /// No operations.
    pub const NONE: Self = Self {
        layers: 0,
        magnitude: 9.0,
    };

    pub(crate) fn validate(&self) -> Result<()> {
        let invalid = |option, expected: &str, found: String| {
            Err(DataError::InvalidOption {
                option,
                expected: expected.to_owned(),
                found,
            })
        };
        if self.layers > 16 {
            let layers = self.layers.to_string();
            return invalid("augmentation.rand_augment.layers", "0 to 16", layers);
        }
        if !(0.0..=STRONGEST).contains(&self.magnitude) {
            let magnitude = self.magnitude.to_string();
            return invalid("augmentation.rand_augment.magnitude", "0 to 10", magnitude);
        }
        Ok(())
    }

    /// Applies random operations to the image that `key` belongs to.
    pub(crate) fn apply<'a>(&self, image: &'a Image, key: RngKey) -> Cow<'a, Image> {
        let mut changed = Cow::Borrowed(image);
        for layer in 0..self.layers as u64 {
            let key = key.fold_in(layer);
            let chosen = (uniform(key, 0) * CHANGES.len() as f32) as usize;
            let sign = if key.bits(1) >> 63 == 1 { 1.0 } else { -1.0 };
            let change = CHANGES[chosen.min(CHANGES.len() - 1)];
            if change != Change::Identity {
                let image = change.apply(&changed, self.magnitude / STRONGEST, sign);
                changed = Cow::Owned(image);
            }
        }
        changed
    }
}

impl Change {
    fn apply(self, image: &Image, strength: f32, sign: f32) -> Image {
        let factor = 1.0 + 0.9 * strength * sign;
        let (height, width) = (image.height() as f32, image.width() as f32);
        let slope = 0.3 * strength * sign;
        match self {
            Self::Identity => image.clone(),
            Self::AutoContrast => by_channel(image, auto_contrast),
            Self::Equalize => by_channel(image, equalize),
            Self::Invert => by_value(image, |value| 255 - value),
            Self::Posterize => {
                let dropped = (4.0 * strength).round() as u32; // keeps 4 bits or more
                by_value(image, |value| value >> dropped << dropped)
            }
            Self::Solarize => {
                let threshold = 256.0 * (1.0 - strength);
                let invert = |value: u8| f32::from(value) >= threshold;
                by_value(
                    image,
                    |value| if invert(value) { 255 - value } else { value },
                )
            }
            Self::Brightness => by_value(image, |value| clamp(f32::from(value) * factor)),
            Self::Contrast => {
                let mean = grey(image).iter().sum::<f32>() / (height * width);
                by_value(image, |value| {
                    clamp(mean + factor * (f32::from(value) - mean))
                })
            }
            Self::Colour => towards(image, &grey(image), factor),
            Self::Sharpness => sharpen(image, factor),
            Self::Rotate => {
                let (sin, cos) = (30f32.to_radians() * strength * sign).sin_cos();
                warp(image, [[cos, -sin], [sin, cos]], [0.0, 0.0])
            }
            Self::ShearX => warp(image, [[1.0, 0.0], [slope, 1.0]], [0.0, 0.0]),
            Self::ShearY => warp(image, [[1.0, slope], [0.0, 1.0]], [0.0, 0.0]),
            Self::TranslateX => warp(image, [[1.0, 0.0], [0.0, 1.0]], [0.0, slope * width]),
            Self::TranslateY => warp(image, [[1.0, 0.0], [0.0, 1.0]], [slope * height, 0.0]),
        }
    }
}

fn clamp(value: f32) -> u8 {
    value.round().clamp(0.0, 255.0) as u8
}

/// Creates an image of the size of `image`.
fn like(image: &Image, pixels: Vec<u8>) -> Image {
    // Never an error: the number of pixels is that of a valid image.
    Image::new(image.height(), image.width(), pixels).unwrap_or_else(|_| image.clone())
}

fn by_value(image: &Image, change: impl Fn(u8) -> u8) -> Image {
    like(
        image,
        image.pixels().iter().map(|&value| change(value)).collect(),
    )
}

/// Maps values by a table per channel.
fn by_channel(image: &Image, table: impl Fn(&[u8]) -> [u8; 256]) -> Image {
    let planes = image.pixels().chunks(image.height() * image.width());
    let changed = planes.flat_map(|plane| {
        let table = table(plane);
        plane.iter().map(move |&value| table[usize::from(value)])
    });
    like(image, changed.collect())
}

/// Stretches a channel to the range 0 to 255.
fn auto_contrast(plane: &[u8]) -> [u8; 256] {
    let low = plane.iter().copied().min().unwrap_or(0);
    let high = plane.iter().copied().max().unwrap_or(255);
    let range = f32::from(high.saturating_sub(low).max(1));
    let stretch = |value: usize| clamp((value as f32 - f32::from(low)) * 255.0 / range);
    if high > low {
        std::array::from_fn(stretch)
    } else {
        std::array::from_fn(|value| value as u8)
    }
}

/// Equalizes the histogram of a channel: each value becomes the share of values up to it.
fn equalize(plane: &[u8]) -> [u8; 256] {
    let mut counts = [0usize; 256];
    for &value in plane {
        counts[usize::from(value)] += 1;
    }
    let mut below = 0;
    let first = counts.iter().copied().find(|&count| count > 0).unwrap_or(0);
    let rest = plane.len() - first;
    std::array::from_fn(|value| {
        below += counts[value];
        if rest == 0 {
            value as u8
        } else {
            clamp(below.saturating_sub(first) as f32 * 255.0 / rest as f32)
        }
    })
}

/// Computes the lightness of each pixel, `[height, width]`, with the weights of ITU-R BT.601.
fn grey(image: &Image) -> Vec<f32> {
    let plane = image.height() * image.width();
    let pixels = image.pixels();
    let value = |channel: usize, at: usize| f32::from(pixels[channel * plane + at]);
    (0..plane)
        .map(|at| 0.299 * value(0, at) + 0.587 * value(1, at) + 0.114 * value(2, at))
        .collect()
}

/// Interpolates every channel between `base` `[height, width]`, at factor 0, and the image, at 1,
/// or extrapolates beyond.
fn towards(image: &Image, base: &[f32], factor: f32) -> Image {
    let bases = base.iter().cycle();
    let changed = image
        .pixels()
        .iter()
        .zip(bases)
        .map(|(&value, base)| clamp(base + factor * (f32::from(value) - base)));
    like(image, changed.collect())
}

/// Scales the difference of the image from its blurred copy: PIL's 3 x 3 kernel of ones with a 5 in
/// the middle. Border pixels stay.
fn sharpen(image: &Image, factor: f32) -> Image {
    let (height, width) = (image.height(), image.width());
    let mut pixels = image.pixels().to_vec();
    for (plane, changed) in image
        .pixels()
        .chunks(height * width)
        .zip(pixels.chunks_mut(height * width))
    {
        for row in 1..height.saturating_sub(1) {
            for column in 1..width.saturating_sub(1) {
                let at = row * width + column;
                let value = f32::from(plane[at]);
                let around = (0..3).flat_map(|down| {
                    let start = (row + down - 1) * width + column - 1;
                    plane[start..start + 3].iter()
                });
                let sum: f32 = around.map(|&value| f32::from(value)).sum();
                let blurred = (sum + 4.0 * value) / 13.0;
                changed[at] = clamp(blurred + factor * (value - blurred));
            }
        }
    }
    like(image, pixels)
}

/// Warps the image: pixel `p` reads `matrix (p - c) + c + offset` about the middle `c`, all as
/// (row, column), by linear interpolation.
fn warp(image: &Image, matrix: [[f32; 2]; 2], offset: [f32; 2]) -> Image {
    let (height, width) = (image.height(), image.width());
    let middle = [(height as f32 - 1.0) / 2.0, (width as f32 - 1.0) / 2.0];
    let mut pixels = vec![0u8; CHANNELS * height * width];
    for row in 0..height {
        for column in 0..width {
            let from = [row as f32 - middle[0], column as f32 - middle[1]];
            let read = [0, 1].map(|axis| {
                matrix[axis][0] * from[0] + matrix[axis][1] * from[1] + middle[axis] + offset[axis]
            });
            for channel in 0..CHANNELS {
                let at = (channel * height + row) * width + column;
                pixels[at] = clamp(interpolated(image, channel, read));
            }
        }
    }
    like(image, pixels)
}

/// Interpolates between the four pixels around a position; grey beyond the border.
fn interpolated(image: &Image, channel: usize, at: [f32; 2]) -> f32 {
    let (height, width) = (image.height(), image.width());
    let plane = &image.pixels()[channel * height * width..];
    let value = |row: f32, column: f32| {
        let inside = (0.0..height as f32).contains(&row) && (0.0..width as f32).contains(&column);
        if inside {
            f32::from(plane[row as usize * width + column as usize])
        } else {
            GREY
        }
    };
    let [top, left] = at.map(f32::floor);
    let [down, right] = [at[0] - top, at[1] - left];
    let upper = value(top, left) * (1.0 - right) + value(top, left + 1.0) * right;
    let lower = value(top + 1.0, left) * (1.0 - right) + value(top + 1.0, left + 1.0) * right;
    upper * (1.0 - down) + lower * down
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_image() -> Image {
        let pixels = (0..3 * 6 * 5).map(|at| (at * 73 % 256) as u8).collect();
        Image::new(6, 5, pixels).unwrap()
    }

    #[test]
    fn most_operations_at_zero_magnitude_are_the_identity() {
        let image = test_image();
        for change in CHANGES {
            let depends = [Change::AutoContrast, Change::Equalize, Change::Invert];
            if !depends.contains(&change) {
                assert_eq!(change.apply(&image, 0.0, 1.0), image, "{change:?}");
            }
        }
    }

    #[test]
    fn operations_at_full_magnitude_change_the_image() {
        let image = test_image();
        for change in &CHANGES[1..] {
            for sign in [1.0, -1.0] {
                assert_ne!(change.apply(&image, 1.0, sign), image, "{change:?} {sign}");
            }
        }
    }

    /// `PIL.ImageOps` and `PIL.ImageEnhance` on values computed by hand.
    #[test]
    fn operations_match_values_computed_by_hand() {
        let flat = |value| Image::new(1, 1, vec![value; 3]).unwrap();
        let pixel = |change: Change, value, strength, sign| {
            change.apply(&flat(value), strength, sign).pixels()[0]
        };
        assert_eq!(pixel(Change::Invert, 10, 1.0, 1.0), 245);
        assert_eq!(pixel(Change::Posterize, 0b1111_1111, 1.0, 1.0), 0b1111_0000);
        assert_eq!(pixel(Change::Solarize, 200, 0.5, 1.0), 55);
        assert_eq!(pixel(Change::Solarize, 100, 0.5, 1.0), 100);
        assert_eq!(pixel(Change::Brightness, 100, 1.0, 1.0), 190);
        assert_eq!(pixel(Change::Brightness, 100, 1.0, -1.0), 10);
        let two = Image::new(1, 2, [50, 100].repeat(3)).unwrap();
        assert_eq!(
            Change::AutoContrast.apply(&two, 0.0, 1.0).pixels()[..2],
            [0, 255]
        );
        assert_eq!(
            Change::Contrast.apply(&two, 1.0, 1.0).pixels()[..2],
            [28, 123]
        ); // about 75, 1.9 times
    }

    #[test]
    fn translations_by_whole_pixels_are_exact() {
        let ramp = Image::new(1, 10, (0..10).collect::<Vec<u8>>().repeat(3)).unwrap();
        let moved = Change::TranslateX.apply(&ramp, 1.0, 1.0); // 0.3 of 10 pixels
        assert_eq!(moved.pixels()[..7], [3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(moved.pixels()[7..10], [128, 128, 128]);
    }

    #[test]
    fn operations_depend_on_the_key_alone() {
        let augment = RandAugment {
            layers: 4,
            magnitude: 9.0,
        };
        let (image, key) = (test_image(), RngKey::new(5));
        assert_eq!(augment.apply(&image, key), augment.apply(&image, key));
        let all: Vec<Image> = (0..20)
            .map(|number| augment.apply(&image, key.fold_in(number)).into_owned())
            .collect();
        assert!(all.iter().any(|one| *one != all[0]));
    }
}
