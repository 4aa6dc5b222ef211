//! The portable kernel: the sums of AVX512-BF16, in the same order, in plain Rust.
//!
//! A product of two bf16 numbers is exact in f32, so a fused multiply-add and a product followed by
//! a sum give the same bits, unless the product overflows or is subnormal.

use super::tile::{Destination, Sums, TILE_COLUMNS, Tile};
use crate::cpu::simd::vectorised;

/// Number of rows of a tile: few registers are needed, and every machine has these.
pub(super) const ROWS: usize = 4;

vectorised! {
    /// Computes a tile.
    pub(super) fn run(tile: Tile, sums: &mut Sums, destination: &mut Destination) {
        tile.check(tile.count, tile.pairs);
        for (row, sums) in tile.rows.chunks(super::tile::PAIRS).zip(&mut sums.0).take(tile.count) {
            let mut lanes = [0f32; TILE_COLUMNS];
            let (columns, _) = tile.columns.as_chunks::<TILE_COLUMNS>();
            for (left, columns) in row.iter().zip(columns).take(tile.pairs) {
                for (lane, right) in lanes.iter_mut().zip(columns) {
                    *lane += second(*left) * second(*right);
                    *lane += first(*left) * first(*right);
                }
            }
            *sums = lanes;
        }
        destination.write(sums, tile.count, tile.width);
    }
}

#[inline(always)]
fn first(pair: u32) -> f32 {
    f32::from_bits(pair << 16)
}

#[inline(always)]
fn second(pair: u32) -> f32 {
    f32::from_bits(pair & 0xffff_0000)
}
