//! A rectangle of whole pixels inside a square picture.

use crate::image::CHANNELS;

/// Rows and columns of a picture, by their first and the one after their last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rectangle {
    pub(crate) top: usize,
    pub(crate) bottom: usize,
    pub(crate) left: usize,
    pub(crate) right: usize,
}

impl Rectangle {
    /// Pixels inside.
    pub(crate) fn area(&self) -> usize {
        (self.bottom - self.top) * (self.right - self.left)
    }

    /// Where its rows begin and end in `[3, side, side]`, one range a row and channel.
    pub(crate) fn rows(self, side: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
        (0..CHANNELS).flat_map(move |channel| {
            (self.top..self.bottom).map(move |row| {
                let start = (channel * side + row) * side;
                start + self.left..start + self.right
            })
        })
    }
}
