//! A tile of a product, and what every kernel does with its sums.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m512;

/// Number of columns of a tile, and of a panel of packed columns.
pub(super) const TILE_COLUMNS: usize = 32;

/// Largest number of rows of a tile.
pub(super) const MOST_ROWS: usize = 32;

/// Number of pairs from one packed row to the next, and the most that a block has: a panel of
/// columns (18 KB) and the rows of a tile (7 KB) fit the first-level cache together. The model's
/// width of 256 and a bias are one block.
pub(super) const PAIRS: usize = 144;

/// The sums of a tile; the last rows and columns may be unused.
#[repr(C, align(64))]
pub(super) struct Sums(pub(super) [[f32; TILE_COLUMNS]; MOST_ROWS]);

#[cfg(target_arch = "x86_64")]
impl Sums {
    /// Returns the first rows as registers.
    #[allow(unsafe_code)]
    pub(super) fn registers(&self, rows: usize) -> &[[__m512; TILE_COLUMNS / 16]] {
        let rows = &self.0[..rows];
        // SAFETY: the values are as many and aligned to 64 bytes, and all bits are valid.
        unsafe { std::slice::from_raw_parts(rows.as_ptr().cast(), rows.len()) }
    }
}

/// The inputs of a tile.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// Packed rows, [`PAIRS`] apart.
    pub(super) rows: &'a [u32],
    /// Number of rows, at most [`MOST_ROWS`].
    pub(super) count: usize,
    /// A panel of packed columns, `[pairs rounded up to 16, TILE_COLUMNS]`.
    pub(super) columns: &'a [u32],
    /// Number of columns that are used.
    pub(super) width: usize,
    pub(super) pairs: usize,
}

impl Tile<'_> {
    /// Asserts that kernels stay inside the slices: `rows` rows and `pairs` pairs.
    pub(super) fn check(&self, rows: usize, pairs: usize) {
        assert!(
            rows <= MOST_ROWS
                && self.count <= rows
                && pairs <= PAIRS
                && self.rows.len() >= rows * PAIRS
                && self.columns.len() >= pairs * TILE_COLUMNS,
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
            fits && bias_fits && width <= TILE_COLUMNS,
            "a tile reaches beyond its destination"
        );
    }

    /// Scales the sums and writes them, with the bias.
    #[inline(always)]
    pub(super) fn write(&mut self, sums: &Sums, rows: usize, width: usize) {
        for (row, sums) in sums.0.iter().enumerate().take(rows) {
            let values = &mut self.values[row * self.row_stride..][..width];
            // A copy of the whole row can be computed in registers.
            let mut new = [0f32; TILE_COLUMNS];
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
