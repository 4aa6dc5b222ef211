//! The left operand of a product with AMX: rows as tile registers load them.
//!
//! Whole steps of 16 pairs of rows in bf16 are loaded from where they are, if there are 16 or 32 rows
//! at equal distances. All else is copied, 32 rows at a time, and filled up with zeros.

use std::ops::Range;

use half::bf16;
use half::slice::HalfFloatSliceExt;

use super::{ROWS, Rows, SIDE, STEP};
use crate::matmul::operand::{Operand, Values};
use crate::matmul::pack::{pack_rows, rows_len};
use crate::matmul::tile::PAIRS;
use crate::matmul::unpacked::Windows;

/// A left operand in any form.
#[derive(Clone, Copy)]
pub(in crate::matmul) enum Left<'a> {
    Matrix(Operand<'a>),
    /// The windows of a feature map.
    Windows(Windows<'a>),
}

/// Number of pairs of the copy of a tile's rows over a block of the inner dimension.
pub(super) const COPY: usize = ROWS * PAIRS;

impl<'a> Left<'a> {
    /// Returns the number of rows.
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Matrix(matrix) => matrix.rows,
            Self::Windows(windows) => windows.shape().0,
        }
    }

    /// Returns how many steps of a block of the inner dimension tile registers can load from where
    /// the rows of a tile are.
    pub(super) fn steps_in_place(&self, tile: &Range<usize>, depth: &Range<usize>) -> usize {
        if !matches!(tile.len(), SIDE | ROWS) {
            return 0;
        }
        let are_at_equal_distances = match self {
            Self::Matrix(matrix) => {
                matches!(matrix.values, Values::Bf16(_)) && matrix.column_stride == 1
            }
            Self::Windows(windows) => {
                let mut halves = tile.clone().step_by(SIDE);
                halves.all(|row| windows.are_in_line(row..row + SIDE))
            }
        };
        if are_at_equal_distances {
            depth.len() / STEP
        } else {
            0
        }
    }

    /// Returns the rows of a tile where they are, from a column on.
    pub(super) fn in_place(&self, tile: &Range<usize>, column: usize) -> Rows<'a> {
        let from = |row: usize| self.values_from(row, column).reinterpret_cast();
        Rows {
            upper: from(tile.start),
            lower: (tile.len() > SIDE).then(|| from(tile.start + SIDE)),
            row_step: match self {
                Self::Matrix(matrix) => matrix.row_stride,
                Self::Windows(windows) => windows.point_stride,
            },
        }
    }

    /// Returns the values from a row's column on.
    fn values_from(&self, row: usize, column: usize) -> &'a [bf16] {
        match *self {
            Self::Matrix(matrix) => match matrix.values {
                Values::Bf16(values) => &values[row * matrix.row_stride + column..],
                Values::F32(_) => unreachable!("f32 values are copied"),
            },
            Self::Windows(windows) => windows.row(row, column),
        }
    }

    /// Copies the rows of a tile over a part of the inner dimension.
    pub(super) fn copy(&self, tile: &Range<usize>, depth: Range<usize>, copy: &mut [u32]) {
        match self {
            Self::Matrix(matrix) => {
                let copy = &mut copy[..rows_len(tile.len(), PAIRS)];
                pack_rows(matrix, tile.clone(), depth, copy, PAIRS);
            }
            Self::Windows(windows) => copy_windows(windows, tile, depth, copy),
        }
    }
}

/// Returns the rows of a copy.
pub(super) fn copied<'a>(tile: &Range<usize>, copy: &'a [u32]) -> Rows<'a> {
    let copy: &[u16] = bytemuck::cast_slice(copy);
    Rows {
        upper: copy,
        lower: (tile.len() > SIDE).then(|| &copy[2 * SIDE * PAIRS..]),
        row_step: 2 * PAIRS,
    }
}

/// Copies the part of every window that is in `depth`.
fn copy_windows(windows: &Windows, tile: &Range<usize>, depth: Range<usize>, copy: &mut [u32]) {
    let rows = bytemuck::cast_slice_mut::<u32, u16>(copy).chunks_exact_mut(2 * PAIRS);
    let len = depth.len();
    for (index, copy) in rows.take(tile.len().next_multiple_of(SIDE)).enumerate() {
        let (copy, rest) = copy[..len.next_multiple_of(STEP)].split_at_mut(len);
        rest.fill(0);
        if index < tile.len() {
            let row = windows.row(tile.start + index, depth.start);
            copy.copy_from_slice(row[..len].reinterpret_cast());
        } else {
            copy.fill(0);
        }
    }
}
