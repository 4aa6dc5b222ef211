//! Packing: writes an operand as units, in the order in which the kernels read them; as bf16, it is
//! rounded on the way.
//!
//! Rows of the left operand and columns of the right one are both lines along the inner dimension,
//! the depth. They are read in squares of 16 lines by 16 units, in whichever direction their values
//! are adjacent in memory, and transposed in registers if the destination needs the other.

use std::ops::Range;

use half::bf16;

use super::format::Format;
use super::operand::{Operand, Values};
use super::rounding::{Element, pair};
use crate::cpu::simd::vectorised;
use crate::cpu::transpose::{SQUARE, swap_all};

type Square = [[u32; SQUARE]; SQUARE];

/// Returns the unit that holds `VALUES` values: one as `f32`, or two as bf16.
#[inline(always)]
fn unit<T: Element, const VALUES: usize>(values: [T; VALUES]) -> u32 {
    match VALUES {
        1 => values[0].f32_bits(),
        _ => pair(values[0], values[1]),
    }
}

/// Lines of values along the inner dimension.
#[derive(Clone, Copy)]
struct Lines<'a, T> {
    values: &'a [T],
    count: usize,
    line_stride: usize,
    depth_stride: usize,
}

impl<T: Element> Lines<'_, T> {
    /// Returns the units of 16 lines from `first` on, over at most 16 units of `depth`:
    /// `[line][unit]`, or `[unit][line]` if `by_unit`. Lines and values that do not exist are 0.
    #[inline(always)]
    fn square<const VALUES: usize>(
        &self,
        first: usize,
        depth: Range<usize>,
        by_unit: bool,
    ) -> Square {
        let most = VALUES * SQUARE;
        let mut square = [[0u32; SQUARE]; SQUARE];
        let lines = self.count.saturating_sub(first).min(SQUARE);
        let is_whole = lines == SQUARE && depth.len() >= most;
        let start = first * self.line_stride + depth.start * self.depth_stride;
        let is_by_unit = is_whole && self.depth_stride > 1 && self.line_stride == 1;
        if is_whole && self.depth_stride == 1 {
            for (line, units) in square.iter_mut().enumerate() {
                let values = &self.values[start + line * self.line_stride..][..most];
                for (to, values) in units.iter_mut().zip(values.as_chunks::<VALUES>().0) {
                    *to = unit(*values);
                }
            }
        } else if is_by_unit {
            for (index, units) in square.iter_mut().enumerate() {
                let at = start + VALUES * index * self.depth_stride;
                let values: [&[T]; VALUES] = std::array::from_fn(|value| {
                    &self.values[at + value * self.depth_stride..][..SQUARE]
                });
                for (line, to) in units.iter_mut().enumerate() {
                    *to = unit::<T, VALUES>(values.map(|values| values[line]));
                }
            }
        } else {
            for (line, units) in square.iter_mut().enumerate().take(lines) {
                for at in 0..depth.len().min(most) {
                    let value =
                        self.values[start + line * self.line_stride + at * self.depth_stride];
                    units[at / VALUES] |= match VALUES {
                        1 => value.f32_bits(),
                        _ => (value.upper_bits() >> 16) << (16 * (at % VALUES)),
                    };
                }
            }
        }
        if is_by_unit != by_unit {
            swap_all(&mut square);
        }
        square
    }

    /// Packs the lines of `range`, `[lines rounded up to 16, line]`.
    #[inline(always)]
    fn pack_rows<const VALUES: usize>(
        &self,
        range: Range<usize>,
        depth: Range<usize>,
        line_len: usize,
        packed: &mut [u32],
    ) {
        let lines = Lines {
            count: range.end,
            ..*self
        };
        for (block, packed) in packed.chunks_exact_mut(SQUARE * line_len).enumerate() {
            for (number, at) in depth.clone().step_by(VALUES * SQUARE).enumerate() {
                let first = range.start + block * SQUARE;
                let square = lines.square::<VALUES>(first, at..depth.end, false);
                for (line, units) in square.iter().enumerate() {
                    packed[line * line_len + number * SQUARE..][..SQUARE].copy_from_slice(units);
                }
            }
        }
    }

    /// Packs all lines, `[panels, units rounded up to 16, width]`.
    #[inline(always)]
    fn pack_columns<const VALUES: usize>(
        &self,
        depth: Range<usize>,
        width: usize,
        packed: &mut [u32],
    ) {
        let step = VALUES * SQUARE;
        let size = depth.len().div_ceil(VALUES).next_multiple_of(SQUARE) * width;
        for (panel, packed) in packed.chunks_exact_mut(size.max(1)).enumerate() {
            let squares = packed.chunks_exact_mut(SQUARE * width);
            for (packed, at) in squares.zip(depth.clone().step_by(step)) {
                for column in (0..width).step_by(SQUARE) {
                    let square = self.square::<VALUES>(panel * width + column, at..depth.end, true);
                    for (units, packed) in square.iter().zip(packed.chunks_exact_mut(width)) {
                        packed[column..][..SQUARE].copy_from_slice(units);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn pack_rows_as(
        &self,
        format: Format,
        range: Range<usize>,
        depth: Range<usize>,
        packed: &mut [u32],
    ) {
        match format {
            Format::Bf16Pairs => self.pack_rows::<2>(range, depth, format.line(), packed),
            Format::F32 => self.pack_rows::<1>(range, depth, format.line(), packed),
        }
    }

    #[inline(always)]
    fn pack_columns_as(&self, format: Format, depth: Range<usize>, packed: &mut [u32]) {
        match format {
            Format::Bf16Pairs => self.pack_columns::<2>(depth, format.columns(), packed),
            Format::F32 => self.pack_columns::<1>(depth, format.columns(), packed),
        }
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
    fn pack_rows_of_f32(lines: Lines<f32>, format: Format, range: Range<usize>, depth: Range<usize>, packed: &mut [u32]) {
        lines.pack_rows_as(format, range, depth, packed);
    }

    fn pack_rows_of_bf16(lines: Lines<bf16>, format: Format, range: Range<usize>, depth: Range<usize>, packed: &mut [u32]) {
        lines.pack_rows_as(format, range, depth, packed);
    }

    fn pack_columns_of_f32(lines: Lines<f32>, format: Format, depth: Range<usize>, packed: &mut [u32]) {
        lines.pack_columns_as(format, depth, packed);
    }

    fn pack_columns_of_bf16(lines: Lines<bf16>, format: Format, depth: Range<usize>, packed: &mut [u32]) {
        lines.pack_columns_as(format, depth, packed);
    }
}

/// Packs some rows of a left operand, over `depth` of its columns, for
/// [`Tile::rows`](super::tile::Tile): [`rows_len`] units.
pub(super) fn pack_rows(
    operand: &Operand,
    format: Format,
    rows: Range<usize>,
    depth: Range<usize>,
    packed: &mut [u32],
) {
    match operand.values {
        Values::F32(values) => {
            pack_rows_of_f32(rows_of(values, operand), format, rows, depth, packed);
        }
        Values::Bf16(values) => {
            pack_rows_of_bf16(rows_of(values, operand), format, rows, depth, packed);
        }
    }
}

/// Returns the number of units that `rows` packed rows take.
pub(super) fn rows_len(format: Format, rows: usize) -> usize {
    rows.next_multiple_of(SQUARE) * format.line()
}

/// Packs all columns of a right operand, over `depth` of its rows, for
/// [`Tile::columns`](super::tile::Tile): [`columns_len`] units.
pub(super) fn pack_columns(
    operand: &Operand,
    format: Format,
    depth: Range<usize>,
    packed: &mut [u32],
) {
    match operand.values {
        Values::F32(values) => {
            pack_columns_of_f32(columns_of(values, operand), format, depth, packed);
        }
        Values::Bf16(values) => {
            pack_columns_of_bf16(columns_of(values, operand), format, depth, packed);
        }
    }
}

/// Returns the number of units that packed columns take.
pub(super) fn columns_len(format: Format, columns: usize, depth: usize) -> usize {
    columns.next_multiple_of(format.columns()) * panel_depth(format, depth)
}

/// Returns the number of units of a column in a panel.
pub(super) fn panel_depth(format: Format, depth: usize) -> usize {
    format.units(depth).next_multiple_of(SQUARE)
}
