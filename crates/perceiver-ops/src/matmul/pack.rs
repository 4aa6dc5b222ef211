//! Packing: rounds an operand to bf16 pairs in the order in which the kernels read them.
//!
//! Rows of the left operand and columns of the right one are both lines along the inner dimension,
//! the depth. They are read in squares of 16 lines by 16 pairs, in whichever direction their values
//! are adjacent in memory, and transposed in registers if the destination needs the other.

use std::ops::Range;

use half::bf16;

use super::operand::{Operand, Values};
use super::rounding::{Element, pair};
use super::tile::TILE_COLUMNS;
use crate::cpu::simd::vectorised;
use crate::cpu::transpose::{SQUARE, swap_all};

/// Depth of a square.
const DEPTH: usize = 2 * SQUARE;

type Square = [[u32; SQUARE]; SQUARE];

/// Lines of values along the inner dimension.
#[derive(Clone, Copy)]
struct Lines<'a, T> {
    values: &'a [T],
    count: usize,
    line_stride: usize,
    depth_stride: usize,
}

impl<T: Element> Lines<'_, T> {
    /// Returns the pairs of 16 lines from `first` on, over at most 32 values of `depth`:
    /// `[line][pair]`, or `[pair][line]` if `by_pair`. Lines and values that do not exist are 0.
    #[inline(always)]
    fn square(&self, first: usize, depth: Range<usize>, by_pair: bool) -> Square {
        let mut square = [[0u32; SQUARE]; SQUARE];
        let lines = self.count.saturating_sub(first).min(SQUARE);
        let is_whole = lines == SQUARE && depth.len() >= DEPTH;
        let start = first * self.line_stride + depth.start * self.depth_stride;
        let is_by_pair = is_whole && self.depth_stride > 1 && self.line_stride == 1;
        if is_whole && self.depth_stride == 1 {
            for (line, pairs) in square.iter_mut().enumerate() {
                let (values, _) = self.values[start + line * self.line_stride..].as_chunks();
                *pairs = T::pairs(&values[0]);
            }
        } else if is_by_pair {
            for (index, pairs) in square.iter_mut().enumerate() {
                let low = start + 2 * index * self.depth_stride;
                let high = &self.values[low + self.depth_stride..][..SQUARE];
                let low = &self.values[low..][..SQUARE];
                for (to, (low, high)) in pairs.iter_mut().zip(low.iter().zip(high)) {
                    *to = pair(*low, *high);
                }
            }
        } else {
            for (line, pairs) in square.iter_mut().enumerate().take(lines) {
                for at in 0..depth.len().min(DEPTH) {
                    let value =
                        self.values[start + line * self.line_stride + at * self.depth_stride];
                    pairs[at / 2] |= (value.upper_bits() >> 16) << (16 * (at % 2));
                }
            }
        }
        if is_by_pair != by_pair {
            swap_all(&mut square);
        }
        square
    }

    /// Packs the lines of `range`, `[lines rounded up to 16, row_stride]`.
    #[inline(always)]
    fn pack_rows(
        &self,
        range: Range<usize>,
        depth: Range<usize>,
        packed: &mut [u32],
        row_stride: usize,
    ) {
        let lines = Lines {
            count: range.end,
            ..*self
        };
        for (block, packed) in packed
            .chunks_exact_mut((SQUARE * row_stride).max(1))
            .enumerate()
        {
            for (number, at) in depth.clone().step_by(DEPTH).enumerate() {
                let square = lines.square(range.start + block * SQUARE, at..depth.end, false);
                for (line, pairs) in square.iter().enumerate() {
                    packed[line * row_stride + number * SQUARE..][..SQUARE].copy_from_slice(pairs);
                }
            }
        }
    }

    /// Packs the first `panels` panels, whose lines are next to each other in memory: two rows of
    /// the matrix at a time.
    #[inline(always)]
    fn interleave(&self, panels: usize, depth: Range<usize>, packed: &mut [u32]) {
        let width = panels * TILE_COLUMNS;
        let pairs = depth.len().next_multiple_of(DEPTH) / 2;
        let row = |at: usize| &self.values[at * self.depth_stride..][..width];
        let (packed, _) = packed.as_chunks_mut::<TILE_COLUMNS>();
        // A loop over all columns uses vectors; one over the columns of a panel is unrolled instead.
        let mut line = vec![0u32; width];
        for pair in 0..pairs {
            let at = depth.start + 2 * pair;
            if at + 1 < depth.end {
                pairs_of(row(at), row(at + 1), &mut line);
            } else if at < depth.end {
                for (pair, low) in line.iter_mut().zip(row(at)) {
                    *pair = low.upper_bits() >> 16;
                }
            } else {
                line.fill(0);
            }
            let (panels, _) = line.as_chunks::<TILE_COLUMNS>();
            for (packed, panel) in packed[pair..].iter_mut().step_by(pairs).zip(panels) {
                *packed = *panel;
            }
        }
    }

    /// Packs all lines, `[panels, pairs rounded up to 16, TILE_COLUMNS]`.
    #[inline(always)]
    fn pack_columns(&self, depth: Range<usize>, packed: &mut [u32]) {
        let size = depth.len().next_multiple_of(DEPTH) / 2 * TILE_COLUMNS;
        let adjacent = if self.line_stride == 1 {
            self.count / TILE_COLUMNS
        } else {
            0
        };
        if adjacent > 0 {
            self.interleave(adjacent, depth.clone(), packed);
        }
        for (panel, packed) in packed
            .chunks_exact_mut(size.max(1))
            .enumerate()
            .skip(adjacent)
        {
            let squares = packed.chunks_exact_mut(SQUARE * TILE_COLUMNS);
            for (packed, at) in squares.zip(depth.clone().step_by(DEPTH)) {
                for column in (0..TILE_COLUMNS).step_by(SQUARE) {
                    let square = self.square(panel * TILE_COLUMNS + column, at..depth.end, true);
                    for (pairs, packed) in square.iter().zip(packed.chunks_exact_mut(TILE_COLUMNS))
                    {
                        packed[column..][..SQUARE].copy_from_slice(pairs);
                    }
                }
            }
        }
    }
}

/// Writes the pairs of two rows.
#[inline(always)]
fn pairs_of<T: Element>(low: &[T], high: &[T], pairs: &mut [u32]) {
    for (pair, (low, high)) in pairs.iter_mut().zip(low.iter().zip(high)) {
        *pair = self::pair(*low, *high);
    }
}

fn rows_of<'a, T>(values: &'a [T], operand: &Operand) -> Lines<'a, T> {
    Lines {
        values,
        count: operand.rows,
        line_stride: operand.row_stride,
        depth_stride: operand.column_stride,
    }
}

fn columns_of<'a, T>(values: &'a [T], operand: &Operand) -> Lines<'a, T> {
    Lines {
        values,
        count: operand.columns,
        line_stride: operand.column_stride,
        depth_stride: operand.row_stride,
    }
}

vectorised! {
    fn pack_rows_f32(lines: Lines<f32>, range: Range<usize>, depth: Range<usize>, packed: &mut [u32], row_stride: usize) {
        lines.pack_rows(range, depth, packed, row_stride);
    }

    fn pack_rows_bf16(lines: Lines<bf16>, range: Range<usize>, depth: Range<usize>, packed: &mut [u32], row_stride: usize) {
        lines.pack_rows(range, depth, packed, row_stride);
    }

    fn pack_columns_f32(lines: Lines<f32>, depth: Range<usize>, packed: &mut [u32]) {
        lines.pack_columns(depth, packed);
    }

    fn pack_columns_bf16(lines: Lines<bf16>, depth: Range<usize>, packed: &mut [u32]) {
        lines.pack_columns(depth, packed);
    }
}

/// Packs some rows of a left operand, over `depth` of its columns, into rows that are `row_stride`
/// pairs apart: [`rows_len`] pairs.
pub(super) fn pack_rows(
    operand: &Operand,
    rows: Range<usize>,
    depth: Range<usize>,
    packed: &mut [u32],
    row_stride: usize,
) {
    match operand.values {
        Values::F32(values) => {
            pack_rows_f32(rows_of(values, operand), rows, depth, packed, row_stride);
        }
        Values::Bf16(values) => {
            pack_rows_bf16(rows_of(values, operand), rows, depth, packed, row_stride);
        }
    }
}

/// Returns the number of pairs that `rows` packed rows take, `row_stride` apart.
pub(super) fn rows_len(rows: usize, row_stride: usize) -> usize {
    rows.next_multiple_of(SQUARE) * row_stride
}

/// Packs all columns of a right operand, over `depth` of its rows, for
/// [`Tile::columns`](super::tile::Tile): [`columns_len`] pairs.
pub(super) fn pack_columns(operand: &Operand, depth: Range<usize>, packed: &mut [u32]) {
    match operand.values {
        Values::F32(values) => pack_columns_f32(columns_of(values, operand), depth, packed),
        Values::Bf16(values) => pack_columns_bf16(columns_of(values, operand), depth, packed),
    }
}

/// Returns the number of pairs that packed columns take.
pub(super) fn columns_len(columns: usize, depth: usize) -> usize {
    columns.next_multiple_of(TILE_COLUMNS) * (depth.next_multiple_of(DEPTH) / 2)
}
