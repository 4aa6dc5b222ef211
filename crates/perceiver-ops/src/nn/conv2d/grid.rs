//! The layout of padded feature maps, and of the kernel of a convolution's input gradient.

use candle_core::{Layout, Result, Shape};

/// The layout of a feature map with `margin` zeros before every line, and `margin` lines of zeros
/// above and below.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub(super) height: usize,
    pub(super) width: usize,
    margin: usize,
}

impl Grid {
    pub(super) fn new(layout: &Layout, side: usize) -> Result<Self> {
        let (_, height, width, _) = layout.shape().dims4()?;
        Ok(Self {
            height,
            width,
            margin: side / 2,
        })
    }

    pub(super) fn side(&self) -> usize {
        2 * self.margin + 1
    }

    /// Returns the number of points of an image.
    pub(super) fn area(&self) -> usize {
        self.height * self.width
    }

    /// Returns the number of points from one line to the next.
    pub(super) fn line(&self) -> usize {
        self.width + self.margin
    }

    /// Returns the number of points of the padded map.
    pub(super) fn padded(&self) -> usize {
        (self.height + 2 * self.margin) * self.line() + self.margin
    }

    /// Returns the number of points at which a kernel is applied, those in gaps between lines
    /// included.
    pub(super) fn points(&self) -> usize {
        (self.height - 1) * self.line() + self.width
    }

    /// Writes the lines of an image into a padded map whose gaps are zeros.
    pub(super) fn pad<T: Copy>(&self, image: &[T], channels: usize, padded: &mut [T]) {
        let start = (self.margin * self.line() + self.margin) * channels;
        self.spread(image, channels, &mut padded[start..]);
    }

    /// Writes the lines of an image to where [`Grid::points`] has them.
    pub(super) fn spread<T: Copy>(&self, image: &[T], channels: usize, points: &mut [T]) {
        let lines = points.chunks_mut(self.line() * channels);
        for (line, to) in image.chunks(self.width * channels).zip(lines) {
            to[..line.len()].copy_from_slice(line);
        }
    }
}

/// Returns the kernel `[outputs, side, side, channels]` for input gradients, mirrored and by lines:
/// `[side, side, outputs, channels]`.
pub(super) fn mirrored<T: Copy>(weight: &[T], side: usize, channels: usize) -> Vec<T> {
    let mut mirrored = Vec::with_capacity(weight.len());
    for position in (0..side * side).rev() {
        for output in weight.chunks(side * side * channels) {
            mirrored.extend_from_slice(&output[position * channels..][..channels]);
        }
    }
    mirrored
}

/// Returns the shape of a map with another number of channels.
pub(super) fn with_channels(layout: &Layout, channels: usize) -> Shape {
    let dims = layout.dims();
    Shape::from((dims[0], dims[1], dims[2], channels))
}
