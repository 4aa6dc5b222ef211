//! A product with AMX: tiles of 32 rows and columns, each over the whole inner dimension.

use std::cell::RefCell;
use std::ops::Range;

use super::left::{COPY, Left, copied};
use super::{ROWS, Rows, SIDE, STEP, Tiles};
use crate::matmul::packed_matrix::PackedMatrix;
use crate::matmul::tile::{MOST_ROWS, Sums, TILE_COLUMNS};
use crate::matmul::unpacked::{Place, Product, write};

/// Number of tiles below each other that are multiplied by one panel after the other: with 256
/// inner values, their rows are 128 KB and stay in the second-level cache, a panel is 16 KB and stays in
/// the first.
const TILES: usize = 8;

thread_local! {
    /// Copies of rows. Kept, because allocating them anew means zeroing them.
    static COPIES: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// Computes `scale * lhs * rhs`, and adds `bias` to every row, on this thread.
///
/// # Safety
/// [`is_available`](super::is_available) has returned `true`, and the CPU has AVX512-BF16.
///
/// # Panics
/// When the operands or the product reach beyond their slices: an error of the calling operation,
/// not of its input.
#[allow(unsafe_code)]
pub(in crate::matmul) unsafe fn multiply(
    product: &mut Product,
    lhs: Left,
    rhs: &PackedMatrix,
    scale: f32,
    bias: Option<&[f32]>,
) {
    // SAFETY: by the contract.
    let registers = unsafe { Tiles::configure() };
    let mut sums = Sums([[0.0; TILE_COLUMNS]; MOST_ROWS]);
    let blocks: Vec<_> = rhs.blocks().collect();
    COPIES.with_borrow_mut(|copies| {
        let len = TILES.min(lhs.rows().div_ceil(ROWS)) * blocks.len() * COPY;
        copies.resize(copies.len().max(len), 0);
        for first in (0..lhs.rows()).step_by(TILES * ROWS) {
            let end = lhs.rows().min(first + TILES * ROWS);
            let tiles: Vec<Range<usize>> = (first..end)
                .step_by(ROWS)
                .map(|row| row..end.min(row + ROWS))
                .collect();
            let parts = parts(lhs, &tiles, &blocks, copies);
            for column in (0..rhs.columns()).step_by(TILE_COLUMNS) {
                let width = TILE_COLUMNS.min(rhs.columns() - column);
                let bias = bias.map(|bias| &bias[column..][..width]);
                for (tile, parts) in tiles.iter().zip(&parts) {
                    registers.zero();
                    for part in parts {
                        registers.add(part.rows, part.columns(column), part.steps);
                    }
                    registers.store(&mut sums);
                    let place = Place {
                        row: tile.start,
                        column,
                        width,
                        scale,
                        bias,
                    };
                    // SAFETY: by the contract.
                    unsafe { write(sums.registers(tile.len()), &place, product) };
                }
            }
        }
    });
}

/// Some rows over a part of the inner dimension, and all columns.
struct Part<'a> {
    rows: Rows<'a>,
    steps: usize,
    /// The packed columns from the part's first pair on.
    columns: &'a [u32],
    /// Number of pairs from one panel of columns to the next.
    panel_len: usize,
}

impl<'a> Part<'a> {
    fn columns(&self, column: usize) -> &'a [u32] {
        &self.columns[column / TILE_COLUMNS * self.panel_len..]
    }
}

/// Returns the parts of every tile. Of a block, those steps come first that are loaded from where
/// they are, then the rest, which is copied.
fn parts<'a>(
    lhs: Left<'a>,
    tiles: &[Range<usize>],
    blocks: &[(Range<usize>, &'a [u32])],
    copies: &'a mut [u32],
) -> Vec<Vec<Part<'a>>> {
    let mut copies = copies.chunks_exact_mut(COPY);
    let mut of_tile = |tile: &Range<usize>| {
        let mut parts = Vec::with_capacity(2 * blocks.len());
        for (depth, columns) in blocks {
            let steps = lhs.steps_in_place(tile, depth);
            let rest = depth.start + steps * STEP..depth.end;
            let panel_len = depth.len().div_ceil(STEP) * SIDE * TILE_COLUMNS;
            let part = |rows, columns, steps| Part {
                rows,
                steps,
                columns,
                panel_len,
            };
            if steps > 0 {
                parts.push(part(lhs.in_place(tile, depth.start), columns, steps));
            }
            if !rest.is_empty() {
                let copy = copies.next().unwrap_or_default();
                let columns = &columns[steps * SIDE * TILE_COLUMNS..];
                let steps = rest.len().div_ceil(STEP);
                lhs.copy(tile, rest, copy);
                parts.push(part(copied(tile, copy), columns, steps));
            }
        }
        parts
    };
    tiles.iter().map(&mut of_tile).collect()
}
