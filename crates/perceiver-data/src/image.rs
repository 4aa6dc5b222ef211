//! One picture: 8-bit RGB, kept as three planes.

use sha2::{Digest, Sha256};

use crate::error::{DataError, Result};

/// The number of colour channels of every picture: red, green, blue.
pub const CHANNELS: usize = 3;

/// An 8-bit RGB picture of any size, stored as planes `[3, height, width]`, each row by row, as CIFAR's files
/// and candle's convention have it.
///
/// Images are equal when their pixels are, whatever they were made from.
#[derive(Clone, Debug)]
pub struct Image {
    height: usize,
    width: usize,
    pixels: Vec<u8>,
    /// Height and width before it was shrunk.
    original_size: (usize, usize),
}

impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        (self.height, self.width) == (other.height, other.width) && self.pixels == other.pixels
    }
}

impl Eq for Image {}

impl Image {
    /// A picture from its planes, `3 * height * width` bytes.
    pub fn new(height: usize, width: usize, pixels: Vec<u8>) -> Result<Self> {
        let expected = CHANNELS * height * width;
        if height == 0 || width == 0 || pixels.len() != expected {
            return Err(DataError::WrongPixelCount {
                what: format!("picture of height {height} and width {width}"),
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

    /// A picture from pixels stored one after another as `[height, width, 3]`, as picture files have it.
    pub fn from_interleaved(height: usize, width: usize, pixels: &[u8]) -> Result<Self> {
        let planes = (0..CHANNELS)
            .flat_map(|channel| pixels.iter().skip(channel).step_by(CHANNELS).copied())
            .collect();
        Self::new(height, width, planes)
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height and width in pixels before the image was shrunk on its way in; its own where it was not.
    pub fn original_size(&self) -> (usize, usize) {
        self.original_size
    }

    /// The same image, which had another size before.
    pub(crate) fn shrunk_from(mut self, original_size: (usize, usize)) -> Self {
        self.original_size = original_size;
        self
    }

    /// All pixels, `[3, height, width]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// SHA-256 of size and pixels: equal for equal pictures, and for nothing else.
    pub fn sha256(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for side in [self.height, self.width] {
            hash.update((side as u64).to_le_bytes());
        }
        hash.update(&self.pixels);
        hash.finalize().into()
    }

    /// The pixels as picture files store them, `[height, width, 3]`.
    pub fn to_interleaved(&self) -> Vec<u8> {
        let plane = self.height * self.width;
        (0..plane)
            .flat_map(|at| (0..CHANNELS).map(move |channel| self.pixels[channel * plane + at]))
            .collect()
    }
}
