//! The original sizes of a data set's images.

use crate::dataset::image::Image;
use crate::error::Result;
use crate::source::samples::Samples;

/// The number of images not in memory that are sampled, since reading all would take long.
const SAMPLE: usize = 15;

/// A summary of the original sizes of images, before downscaling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSizes {
    /// The median height in pixels.
    pub height: usize,
    /// The median width in pixels.
    pub width: usize,
    /// Whether all images have that size.
    pub uniform: bool,
    /// Whether all images are square.
    pub square: bool,
}

impl ImageSizes {
    /// Summarizes the sizes of images; `None` if there are none.
    pub fn of<'a>(images: impl IntoIterator<Item = &'a Image>) -> Option<Self> {
        let sizes = images.into_iter().map(Image::original_size);
        let (mut heights, mut widths): (Vec<usize>, Vec<usize>) = sizes.unzip();
        let square = heights == widths;
        heights.sort_unstable();
        widths.sort_unstable();
        let middle = |sorted: &[usize]| sorted.get(sorted.len() / 2).copied();
        let uniform = |sorted: &[usize]| sorted.first() == sorted.last();
        Some(Self {
            height: middle(&heights)?,
            width: middle(&widths)?,
            uniform: uniform(&heights) && uniform(&widths),
            square,
        })
    }
}

impl Samples {
    /// Summarizes the sizes of the images; of a sample, if they are not in memory.
    ///
    /// # Errors
    /// When an image cannot be read.
    pub fn sizes(&self) -> Result<Option<ImageSizes>> {
        match self {
            Self::InMemory(data) => Ok(ImageSizes::of(data.images())),
            Self::Sharded(_) | Self::Mapped(_) => {
                let count = SAMPLE.min(self.len());
                let chosen = (0..count).map(|at| self.image(at * self.len() / count));
                let images = chosen.collect::<Result<Vec<Image>>>()?;
                Ok(ImageSizes::of(&images))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(height: usize, width: usize) -> Image {
        Image::new(height, width, vec![0; 3 * height * width]).unwrap()
    }

    #[test]
    fn medians_are_of_the_original_sizes() {
        let images = [image(4, 8).shrunk_to(2), image(6, 30), image(5, 9)];
        let expected = ImageSizes {
            height: 5,
            width: 9,
            uniform: false,
            square: false,
        };
        assert_eq!(ImageSizes::of(&images), Some(expected));
    }

    #[test]
    fn images_of_one_size_are_uniform() {
        let sizes = ImageSizes::of(&[image(3, 3), image(3, 3)]).unwrap();
        assert!(sizes.uniform && sizes.square);
        assert_eq!(ImageSizes::of(&[]), None);
    }
}
