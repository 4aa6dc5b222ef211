//! An image: 8-bit RGB, in three planes.

use sha2::{Digest, Sha256};

use crate::error::{DataError, Result};

/// The number of colour channels of every image: red, green, blue.
pub const CHANNELS: usize = 3;

/// An 8-bit RGB image of any size, stored as planes `[3, height, width]` in row-major order, as in
/// CIFAR's files and in candle.
///
/// Images are equal when their pixels are, regardless of their original sizes.
#[derive(Clone, Debug)]
pub struct Image {
    height: usize,
    width: usize,
    pixels: Vec<u8>,
    /// Height and width before downscaling.
    original_size: (usize, usize),
}

impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        (self.height, self.width) == (other.height, other.width) && self.pixels == other.pixels
    }
}

impl Eq for Image {}

impl Image {
    /// Creates an image from planes of `3 * height * width` bytes.
    pub fn new(height: usize, width: usize, pixels: Vec<u8>) -> Result<Self> {
        let expected = CHANNELS * height * width;
        if height == 0 || width == 0 || pixels.len() != expected {
            return Err(DataError::WrongPixelCount {
                what: format!("image of height {height} and width {width}"),
                expected,
                found: pixels.len(),
            });
        }
        Ok(Self {
            height,
            width,
            pixels,
            original_size: (height, width),
        })
    }

    /// Creates an image from interleaved pixels `[height, width, 3]`, the layout of image files.
    pub fn from_interleaved(height: usize, width: usize, pixels: &[u8]) -> Result<Self> {
        let planes = (0..CHANNELS)
            .flat_map(|channel| pixels.iter().skip(channel).step_by(CHANNELS).copied())
            .collect();
        Self::new(height, width, planes)
    }

    /// Returns the height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Returns the width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns height and width in pixels before the image was downscaled on loading; the current
    /// size if it was not.
    pub fn original_size(&self) -> (usize, usize) {
        self.original_size
    }

    /// Sets the original size of a downscaled image.
    pub(crate) fn shrunk_from(mut self, original_size: (usize, usize)) -> Self {
        self.original_size = original_size;
        self
    }

    /// Returns the pixels, `[3, height, width]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Returns the SHA-256 of size and pixels: equal for equal images only.
    pub fn sha256(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for side in [self.height, self.width] {
            hash.update((side as u64).to_le_bytes());
        }
        hash.update(&self.pixels);
        hash.finalize().into()
    }

    /// Returns the pixels interleaved, `[height, width, 3]`, the layout of image files.
    pub fn to_interleaved(&self) -> Vec<u8> {
        let plane = self.height * self.width;
        (0..plane)
            .flat_map(|at| (0..CHANNELS).map(move |channel| self.pixels[channel * plane + at]))
            .collect()
    }
}
