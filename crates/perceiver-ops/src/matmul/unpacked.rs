//! Products of bf16 matrices whose left operand is read as it is in memory.
//!
//! A row of bf16 values is a row of pairs, so only the right operand has to be packed. A packed
//! matrix is a left operand too, transposed: its panels have the pairs of 32 columns next to each
//! other. A value is summed in one chain over the whole inner dimension, and can be rounded to bf16
//! when it is written.

use half::bf16;
use half::slice::HalfFloatSliceExt;

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::kernel::{Bf16Kernel, Instructions};
use super::operand::Operand;
use super::packed_matrix::PackedMatrix;
use super::product::{Epilogue, multiply_packed};
use super::tile::TILE_COLUMNS;
use crate::cpu::gemm::{Sum, Target};
use crate::half_precision::narrow;

#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
mod windows;

#[cfg(target_arch = "x86_64")]
pub(super) use avx512::write;
pub(crate) use windows::Windows;

/// A left operand in bf16.
#[derive(Clone, Copy)]
pub(crate) enum Lhs<'a> {
    /// Row after row.
    Rows(RowMajor<'a>),
    /// The windows of a feature map.
    Windows(Windows<'a>),
    /// The transpose of a packed matrix: see [`Transposed`](super::transposed::Transposed).
    Packed(&'a PackedMatrix),
}

/// A matrix of bf16 values whose rows are adjacent values. Rows may overlap.
#[derive(Clone, Copy)]
pub(crate) struct RowMajor<'a> {
    pub(crate) values: &'a [bf16],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_stride: usize,
}

impl<'a> RowMajor<'a> {
    /// Creates a matrix without gaps between its rows.
    pub(crate) fn new(values: &'a [bf16], rows: usize, columns: usize) -> Self {
        Self {
            values,
            rows,
            columns,
            row_stride: columns,
        }
    }

    /// Returns `columns` columns from `first` on.
    pub(crate) fn part(self, first: usize, columns: usize) -> Self {
        Self {
            values: &self.values[first..],
            columns,
            ..self
        }
    }

    /// Returns `rows` rows from `first` on.
    pub(crate) fn rows(self, first: usize, rows: usize) -> Self {
        Self {
            values: &self.values[first * self.row_stride..],
            rows,
            ..self
        }
    }
}

/// Where a product goes: rows of a slice with an arbitrary stride.
pub(crate) enum Product<'a> {
    F32(Target<'a>, Sum),
    Bf16 {
        values: &'a mut [bf16],
        row_stride: usize,
    },
}

/// Computes `scale * lhs * rhs`, and adds `bias` to every row, on this thread.
///
/// # Panics
/// When the shapes do not fit or a matrix reaches beyond its slice: an error of the calling
/// operation, not of its input.
pub(crate) fn multiply(
    kernel: Bf16Kernel,
    mut product: Product,
    lhs: Lhs,
    rhs: &PackedMatrix,
    scale: f32,
    bias: Option<&[f32]>,
) {
    let (rows, inner) = lhs.shape();
    let columns = rhs.columns();
    assert_eq!(inner, rhs.rows(), "inner dimensions of a product");
    assert!(
        lhs.is_inside() && product.holds(rows, columns),
        "a matrix reaches beyond its slice"
    );
    assert!(
        bias.is_none_or(|bias| bias.len() == columns),
        "length of a bias"
    );
    let kernel = kernel.for_rows(rows);
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code)]
    if kernel.0 == Instructions::Amx {
        // SAFETY: the kernel exists only if AMX and AVX512-BF16 are available.
        return unsafe { amx::multiply(&mut product, lhs.into(), rhs, scale, bias) };
    }
    if !lhs.has_whole_pairs() {
        return by_packing(kernel, &mut product, lhs, rhs, scale, bias);
    }
    let heights = match kernel.0 {
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 => avx512::HEIGHTS,
        _ => portable::HEIGHTS,
    };
    let blocks = Block::of(lhs, rhs);
    for column in (0..columns).step_by(TILE_COLUMNS) {
        let width = TILE_COLUMNS.min(columns - column);
        let bias = bias.map(|bias| &bias[column..][..width]);
        let mut row = 0;
        while row < rows {
            let count = lhs.tile_rows(row, heights);
            let tile = Tile {
                blocks: &blocks,
                row_step: lhs.row_step(),
                line: lhs.line(),
                line_step: lhs.line_step(),
                is_packed: matches!(lhs, Lhs::Packed(_)),
                count,
                place: Place {
                    row,
                    column,
                    width,
                    scale,
                    bias,
                },
            };
            match kernel.0 {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the kernel exists only if the CPU has AVX512-BF16.
                #[allow(unsafe_code)]
                Instructions::Avx512 => unsafe { avx512::run(&tile, &mut product) },
                _ => portable::run(&tile, &mut product),
            }
            row += count;
        }
    }
}

/// Computes the product by packing the left operand as well.
fn by_packing(
    kernel: Bf16Kernel,
    product: &mut Product,
    lhs: Lhs,
    rhs: &PackedMatrix,
    scale: f32,
    bias: Option<&[f32]>,
) {
    let copy;
    let operand = match lhs {
        Lhs::Rows(rows) => Operand::from(rows),
        Lhs::Windows(windows) => {
            copy = windows.copied();
            let (rows, columns) = lhs.shape();
            Operand::from(RowMajor::new(&copy, rows, columns))
        }
        Lhs::Packed(_) => unreachable!("packed rows consist of whole pairs"),
    };
    let epilogue = |sum| Epilogue { scale, sum, bias };
    match product {
        Product::F32(Target { values, row_stride }, sum) => {
            let target = Target {
                values,
                row_stride: *row_stride,
            };
            multiply_packed(kernel, target, operand, rhs, epilogue(*sum));
        }
        Product::Bf16 { values, row_stride } => {
            let columns = rhs.columns();
            let mut sums = vec![0f32; operand.rows * columns];
            let target = Target {
                values: &mut sums,
                row_stride: columns,
            };
            multiply_packed(kernel, target, operand, rhs, epilogue(Sum::Replace));
            for (row, sums) in sums.chunks(columns.max(1)).enumerate() {
                narrow(sums, &mut values[row * *row_stride..][..columns]);
            }
        }
    }
}

/// Number of rows that are in one panel if the left operand is packed.
const GROUP: usize = 4;

/// A part of the inner dimension of both operands.
struct Block<'a> {
    /// From the first row's first pair on.
    lhs: &'a [u16],
    columns: &'a [u32],
    pairs: usize,
}

impl<'a> Block<'a> {
    /// Splits operands whose inner dimensions are equal.
    fn of(lhs: Lhs<'a>, rhs: &'a PackedMatrix) -> Vec<Self> {
        let from = |values: &'a [bf16], start: usize| {
            let values: &[u16] = values.reinterpret_cast();
            values.get(start..).unwrap_or_default()
        };
        let depths = || rhs.blocks().map(|(depth, _)| depth);
        let lhs: Vec<&[u16]> = match lhs {
            Lhs::Rows(rows) => depths()
                .map(|depth| from(rows.values, depth.start))
                .collect(),
            Lhs::Windows(windows) => {
                assert_eq!(rhs.parts(), windows.side, "parts of a window");
                depths()
                    .map(|depth| from(windows.values, windows.offset(depth.start)))
                    .collect()
            }
            Lhs::Packed(packed) => {
                let halves = |(_, block)| bytemuck::cast_slice::<u32, u16>(block);
                packed.blocks().map(halves).collect()
            }
        };
        let blocks = rhs.blocks().zip(lhs);
        let blocks = blocks.map(|((depth, columns), lhs)| Self {
            lhs,
            columns,
            pairs: depth.len().div_ceil(2),
        });
        blocks.collect()
    }
}

/// Some rows and columns of a product.
struct Tile<'a> {
    blocks: &'a [Block<'a>],
    /// Number of values from one row of the left operand to the next, in one line.
    row_step: usize,
    /// Number of rows in a line: see [`Lhs::line`].
    line: usize,
    /// Number of values from one line to the next, unless the left operand is packed.
    line_step: usize,
    /// Whether the left operand is packed.
    is_packed: bool,
    /// Number of rows.
    count: usize,
    place: Place<'a>,
}

/// Where the sums of a tile go, and how they change on the way.
pub(super) struct Place<'a> {
    /// Of the product.
    pub(super) row: usize,
    pub(super) column: usize,
    /// Number of columns.
    pub(super) width: usize,
    pub(super) scale: f32,
    /// A row to add to every row, `[width]`.
    pub(super) bias: Option<&'a [f32]>,
}

/// A part of a tile's inner dimension.
struct Step<'a> {
    /// From the first pair of every fourth row on.
    lhs: [&'a [u16]; 3],
    /// A panel of packed columns.
    columns: &'a [u32],
    pairs: usize,
}

impl<'a> Tile<'a> {
    /// Returns the tile's part of a block.
    #[inline(always)]
    fn step(&self, block: &Block<'a>) -> Step<'a> {
        let panel_len = block.pairs.next_multiple_of(16) * TILE_COLUMNS;
        let rows = |group: usize| {
            let row = self.place.row + GROUP * group;
            let line_step = if self.is_packed {
                2 * panel_len
            } else {
                self.line_step
            };
            let start = row / self.line * line_step + row % self.line * self.row_step;
            block.lhs.get(start..).unwrap_or_default()
        };
        Step {
            lhs: [rows(0), rows(1), rows(2)],
            columns: &block.columns[self.place.column / TILE_COLUMNS * panel_len..][..panel_len],
            pairs: block.pairs,
        }
    }
}

impl Lhs<'_> {
    /// Returns the numbers of rows and columns.
    fn shape(self) -> (usize, usize) {
        match self {
            Self::Rows(rows) => (rows.rows, rows.columns),
            Self::Windows(windows) => windows.shape(),
            Self::Packed(packed) => (packed.columns(), packed.rows()),
        }
    }

    /// Returns whether rows that are not packed consist of whole pairs: a pair may not reach into the
    /// next row.
    fn has_whole_pairs(self) -> bool {
        match self {
            Self::Rows(rows) => rows.columns.is_multiple_of(2),
            Self::Windows(windows) => windows.part().is_multiple_of(2),
            Self::Packed(_) => true,
        }
    }

    /// Returns the number of values from one row to the next, within a line.
    fn row_step(self) -> usize {
        match self {
            Self::Rows(rows) => rows.row_stride,
            Self::Windows(windows) => windows.point_stride,
            Self::Packed(_) => 2,
        }
    }

    /// Returns the number of rows that are at equal distances: those of a line of a feature map or
    /// of a panel.
    fn line(self) -> usize {
        match self {
            Self::Rows(_) => usize::MAX,
            Self::Windows(windows) => windows.width.max(1),
            Self::Packed(_) => TILE_COLUMNS,
        }
    }

    /// Returns the number of values from one line to the next, unless they are packed.
    fn line_step(self) -> usize {
        match self {
            Self::Windows(windows) => windows.line_stride,
            Self::Rows(_) | Self::Packed(_) => 0,
        }
    }

    /// Returns whether every entry lies inside the slice.
    fn is_inside(self) -> bool {
        match self {
            Self::Rows(rows) => Operand::from(rows).is_inside(),
            Self::Windows(windows) => windows.is_inside(),
            Self::Packed(_) => true,
        }
    }

    /// Returns the number of rows of the tile that starts at `row`: the first height if so many are
    /// left, else at most the second, and then in one line. A tile of the first height consists of
    /// groups of [`GROUP`] rows, each in one line.
    fn tile_rows(self, row: usize, [most, fewer]: [usize; 2]) -> usize {
        let line = self.line();
        let rest = self.shape().0 - row;
        let in_line = rest.min(line - row % line);
        let has_whole_groups = line.is_multiple_of(GROUP);
        match if has_whole_groups { rest } else { in_line } {
            rest if rest >= most => most,
            _ => in_line.min(fewer),
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl<'a> From<Lhs<'a>> for amx::Left<'a> {
    fn from(lhs: Lhs<'a>) -> Self {
        match lhs {
            Lhs::Rows(rows) => Self::Matrix(rows.into()),
            Lhs::Windows(windows) => Self::Windows(windows),
            Lhs::Packed(_) => unreachable!("transposes for AMX are rows"),
        }
    }
}

impl Product<'_> {
    /// Returns whether the rows do not overlap and lie inside the slice.
    fn holds(&self, rows: usize, columns: usize) -> bool {
        let (len, row_stride) = match self {
            Self::F32(target, _) => (target.values.len(), target.row_stride),
            Self::Bf16 { values, row_stride } => (values.len(), *row_stride),
        };
        rows * columns == 0 || row_stride >= columns && (rows - 1) * row_stride + columns <= len
    }
}

#[cfg(test)]
mod tests;
