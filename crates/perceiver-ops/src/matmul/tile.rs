//! A tile of a product, and what every kernel does with its sums.

use super::format::{BF16_COLUMNS, Format};

/// Largest number of rows of a tile.
pub(super) const MOST_ROWS: usize = 32;

/// The sums of a tile of bf16 numbers; the last rows and columns may be unused.
#[repr(C, align(64))]
pub(super) struct Sums(pub(super) [[f32; BF16_COLUMNS]; MOST_ROWS]);

/// The inputs of a tile.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// Packed rows, [`Format::line`] apart.
    pub(super) rows: &'a [u32],
    /// Number of rows, at most [`MOST_ROWS`].
    pub(super) count: usize,
    /// A panel of packed columns, `[units rounded up to 16, Format::columns]`.
    pub(super) columns: &'a [u32],
    /// Number of columns that are used.
    pub(super) width: usize,
    /// Number of units of a row and a column.
    pub(super) units: usize,
}

impl Tile<'_> {
    /// Asserts that kernels stay inside the slices: `rows` rows and `units` units.
    pub(super) fn check(&self, format: Format, rows: usize, units: usize) {
        assert!(
            rows <= MOST_ROWS
                && self.count <= rows
                && units <= format.line()
                && self.rows.len() >= rows * format.line()
                && self.columns.len() >= units * format.columns(),
            "a tile reaches beyond its packed operands"
        );
    }
}

/// Where the sums of a tile go.
pub(super) struct Destination<'a> {
    /// From the first value of the tile on.
    pub(super) values: &'a mut [f32],
    pub(super) row_stride: usize,
    pub(super) scale: f32,
    /// Whether to add to the values instead of replacing them.
    pub(super) add: bool,
    /// A row to add to every row of the tile.
    pub(super) bias: Option<&'a [f32]>,
}

impl Destination<'_> {
    /// Asserts that kernels stay inside the slices.
    pub(super) fn check(&self, rows: usize, width: usize) {
        let fits = rows == 0 || (rows - 1) * self.row_stride + width <= self.values.len();
        let bias_fits = self.bias.is_none_or(|bias| bias.len() >= width);
        assert!(
            fits && bias_fits && width <= BF16_COLUMNS,
            "a tile reaches beyond its destination"
        );
    }

    /// Scales the sums and writes them, with the bias.
    #[inline(always)]
    pub(super) fn write<const COLUMNS: usize>(
        &mut self,
        sums: &[[f32; COLUMNS]],
        rows: usize,
        width: usize,
    ) {
        for (row, sums) in sums.iter().enumerate().take(rows) {
            let values = &mut self.values[row * self.row_stride..][..width];
            // A copy of the whole row can be computed in registers.
            let mut new = [0f32; COLUMNS];
            if self.add {
                new[..width].copy_from_slice(values);
            }
            for (new, sum) in new.iter_mut().zip(sums) {
                *new += self.scale * sum;
            }
            if let Some(bias) = self.bias {
                for (new, bias) in new.iter_mut().zip(bias) {
                    *new += bias;
                }
            }
            values.copy_from_slice(&new[..width]);
        }
    }
}
