//! The share of every batch that one of several processes builds.

use std::ops::Range;

/// One of several near-equal parts of every batch, each built by one process (rank).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The index of the part, from 0.
    pub index: usize,
    /// The number of parts, at least 1.
    pub of: usize,
}

impl Part {
    /// The whole batch.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// Returns this part of the range `0..len`; empty if `len` is too small. Part sizes differ by
    /// at most one.
    ///
    /// ```
    /// use perceiver_data::Part;
    ///
    /// let parts = [0, 1, 2].map(|index| Part { index, of: 3 }.range(7));
    /// assert_eq!(parts, [0..2, 2..4, 4..7]);
    /// ```
    pub fn range(self, len: usize) -> Range<usize> {
        self.index * len / self.of..(self.index + 1) * len / self.of
    }
}
