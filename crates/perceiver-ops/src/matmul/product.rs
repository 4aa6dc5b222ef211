//! The product of a matrix and a packed matrix: blocks and tiles.

use std::cell::RefCell;

use super::kernel::Bf16Kernel;
#[cfg(target_arch = "x86_64")]
use super::kernel::Instructions;
use super::operand::Operand;
use super::pack::{pack_rows, rows_len};
use super::packed_matrix::PackedMatrix;
use super::portable;
use super::tile::{Destination, MOST_ROWS, PAIRS, Sums, TILE_COLUMNS, Tile};
#[cfg(target_arch = "x86_64")]
use super::{amx, avx512, unpacked::Product};
use crate::cpu::gemm::{Sum, Target};

/// Number of rows packed at a time: 55 KB, which stay in the second-level cache while all columns
/// are multiplied. A multiple of the rows of a tile in every kernel.
const BLOCK_ROWS: usize = 192;

thread_local! {
    /// Packed rows. Kept, because allocating them anew means zeroing them.
    static PACKED_ROWS: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// What happens to the sums of a product.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    pub(crate) scale: f32,
    pub(crate) sum: Sum,
    /// A row to add to every row, `[columns]`.
    pub(crate) bias: Option<&'a [f32]>,
}

/// Computes `scale * lhs * rhs` into the matrix `[lhs.rows, rhs.columns]` in `target`, on this
/// thread.
///
/// # Panics
/// When the shapes do not fit or a matrix reaches beyond its slice: an error of the calling
/// operation, not of its input.
pub(crate) fn multiply_packed<'a>(
    kernel: Bf16Kernel,
    target: Target,
    lhs: impl Into<Operand<'a>>,
    rhs: &PackedMatrix,
    epilogue: Epilogue,
) {
    let lhs = lhs.into();
    assert_eq!(lhs.columns, rhs.rows(), "inner dimensions of a product");
    assert!(lhs.is_inside(), "a matrix reaches beyond its slice");
    let columns = rhs.columns();
    let bias_fits = epilogue.bias.is_none_or(|bias| bias.len() == columns);
    assert!(bias_fits, "length of a bias");
    let Target { values, row_stride } = target;
    if lhs.rows == 0 || columns == 0 {
        return;
    }
    assert!(
        row_stride >= columns && (lhs.rows - 1) * row_stride + columns <= values.len(),
        "a product's rows overlap or reach beyond their slice"
    );
    let kernel = kernel.for_rows(lhs.rows);
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code)]
    if kernel.0 == Instructions::Amx {
        let Epilogue { scale, sum, bias } = epilogue;
        let mut product = Product::F32(Target { values, row_stride }, sum);
        // SAFETY: the kernel exists only if AMX and AVX512-BF16 are available.
        return unsafe { amx::multiply(&mut product, amx::Left::Matrix(lhs), rhs, scale, bias) };
    }
    PACKED_ROWS.with_borrow_mut(|packed| {
        for start in (0..lhs.rows).step_by(BLOCK_ROWS) {
            let rows = start..(start + BLOCK_ROWS).min(lhs.rows);
            packed.resize(packed.len().max(rows_len(rows.len(), PAIRS)), 0);
            let packed = &mut packed[..rows_len(rows.len(), PAIRS)];
            for (depth, block) in rhs.blocks() {
                pack_rows(&lhs, rows.clone(), depth.clone(), packed, PAIRS);
                let is_first = depth.start == 0;
                let block = Block {
                    rows: packed,
                    count: rows.len(),
                    columns: block,
                    width: columns,
                    pairs: depth.len().div_ceil(2),
                };
                let epilogue = Epilogue {
                    sum: if is_first { epilogue.sum } else { Sum::Add },
                    bias: epilogue.bias.filter(|_| is_first),
                    ..epilogue
                };
                let values = &mut values[start * row_stride..];
                block.multiply(kernel, values, row_stride, epilogue);
            }
        }
    });
}

/// Some packed rows and all packed columns, over a block of the inner dimension.
struct Block<'a> {
    rows: &'a [u32],
    count: usize,
    columns: &'a [u32],
    width: usize,
    pairs: usize,
}

impl Block<'_> {
    fn multiply(
        &self,
        kernel: Bf16Kernel,
        values: &mut [f32],
        row_stride: usize,
        epilogue: Epilogue,
    ) {
        let mut sums = Sums([[0.0; TILE_COLUMNS]; MOST_ROWS]);
        let panel_len = self.pairs.next_multiple_of(16) * TILE_COLUMNS;
        let height = kernel.rows();
        for (panel, column) in (0..self.width).step_by(TILE_COLUMNS).enumerate() {
            let width = TILE_COLUMNS.min(self.width - column);
            let columns = &self.columns[panel * panel_len..][..panel_len];
            let bias = epilogue.bias.map(|bias| &bias[column..][..width]);
            for row in (0..self.count).step_by(height) {
                let tile = Tile {
                    rows: &self.rows[row * PAIRS..],
                    count: height.min(self.count - row),
                    columns,
                    width,
                    pairs: self.pairs,
                };
                let mut destination = Destination {
                    values: &mut values[row * row_stride + column..],
                    row_stride,
                    scale: epilogue.scale,
                    add: epilogue.sum == Sum::Add,
                    bias,
                };
                run(kernel, tile, &mut sums, &mut destination);
            }
        }
    }
}

/// Computes a tile.
#[allow(unsafe_code)]
fn run(kernel: Bf16Kernel, tile: Tile, sums: &mut Sums, destination: &mut Destination) {
    match kernel.0 {
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 => {
            // SAFETY: the kernel exists only if the CPU has AVX512-BF16.
            unsafe { avx512::run(tile, destination) }
        }
        _ => portable::run(tile, sums, destination),
    }
}
