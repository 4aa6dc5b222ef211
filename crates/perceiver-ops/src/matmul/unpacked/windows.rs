//! The windows of a feature map as the rows of a matrix, read where they are.

use std::ops::Range;

use half::bf16;

/// The values of a square window for every point of a channels-last feature map, as a matrix
/// `[height * width, side * side * channels]`. The map has zeros around its edges already.
///
/// A line of a window is adjacent values; so a row consists of `side` parts, a line of the map apart,
/// and the rows of neighbouring points overlap in memory.
#[derive(Clone, Copy)]
pub(crate) struct Windows<'a> {
    /// From the first window's first value on.
    pub(crate) values: &'a [bf16],
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) side: usize,
    /// Number of values from one point to the next: the channels.
    pub(crate) point_stride: usize,
    /// Number of values from one line of the map to the next.
    pub(crate) line_stride: usize,
}

impl<'a> Windows<'a> {
    /// Returns the numbers of rows and columns.
    pub(in crate::matmul) fn shape(&self) -> (usize, usize) {
        (self.height * self.width, self.side * self.part())
    }

    /// Returns the number of values of a part of a row.
    pub(super) fn part(&self) -> usize {
        self.side * self.point_stride
    }

    /// Returns where a column of the first row is.
    pub(super) fn offset(&self, column: usize) -> usize {
        let part = self.part().max(1);
        column / part * self.line_stride + column % part
    }

    /// Returns a row from a column on: what is adjacent in memory ends with the column's part.
    pub(in crate::matmul) fn row(&self, row: usize, column: usize) -> &'a [bf16] {
        let (line, point) = (row / self.width, row % self.width);
        let start = line * self.line_stride + point * self.point_stride;
        &self.values[start + self.offset(column)..]
    }

    /// Returns whether rows are in one line, so at equal distances.
    pub(in crate::matmul) fn are_in_line(&self, rows: Range<usize>) -> bool {
        rows.start / self.width == (rows.end - 1) / self.width
    }

    /// Returns whether every entry lies inside the slice.
    pub(super) fn is_inside(&self) -> bool {
        let (rows, columns) = self.shape();
        rows * columns == 0 || {
            let last = (self.height - 1) * self.line_stride + (self.width - 1) * self.point_stride;
            last + self.offset(columns - 1) < self.values.len()
        }
    }

    /// Returns the matrix row by row.
    pub(super) fn copied(&self) -> Vec<bf16> {
        let (rows, columns) = self.shape();
        let mut copy = Vec::with_capacity(rows * columns);
        for (line, point) in (0..self.height).flat_map(|y| (0..self.width).map(move |x| (y, x))) {
            let start = line * self.line_stride + point * self.point_stride;
            for part in 0..self.side {
                let part = start + part * self.line_stride;
                copy.extend_from_slice(&self.values[part..][..self.part()]);
            }
        }
        copy
    }
}
