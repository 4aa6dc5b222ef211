//! Rectangles in a square image, in whole pixels.

use crate::dataset::image::CHANNELS;

/// A rectangle of rows and columns, ends exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rectangle {
    pub(crate) top: usize,
    pub(crate) bottom: usize,
    pub(crate) left: usize,
    pub(crate) right: usize,
}

impl Rectangle {
    /// Returns the number of pixels.
    pub(crate) fn area(&self) -> usize {
        (self.bottom - self.top) * (self.right - self.left)
    }

    /// Returns the index ranges of its rows in `[3, side, side]`, one per row and channel.
    pub(crate) fn rows(self, side: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
        (0..CHANNELS).flat_map(move |channel| {
            (self.top..self.bottom).map(move |row| {
                let start = (channel * side + row) * side;
                start + self.left..start + self.right
            })
        })
    }
}
