//! The portable kernel: the sums of AVX512-BF16, in the same order, in plain Rust.
//!
//! A product of two bf16 numbers is exact in f32, so a fused multiply-add and a product followed by
//! a sum give the same bits, unless the product overflows or is subnormal.

use super::format::{BF16_COLUMNS, Format, PAIRS};
use super::tile::{Destination, Sums, Tile};
use crate::cpu::simd::vectorised;

/// Number of rows of a tile: few registers are needed, and every machine has these.
pub(super) const ROWS: usize = 4;

vectorised! {
    /// Computes a tile.
    pub(super) fn run(tile: Tile, sums: &mut Sums, destination: &mut Destination) {
        tile.check(Format::Bf16Pairs, tile.count, tile.units);
        for (row, sums) in tile.rows.chunks(PAIRS).zip(&mut sums.0).take(tile.count) {
            let mut lanes = [0f32; BF16_COLUMNS];
            let (columns, _) = tile.columns.as_chunks::<BF16_COLUMNS>();
            for (left, columns) in row.iter().zip(columns).take(tile.units) {
                for (lane, right) in lanes.iter_mut().zip(columns) {
                    *lane += second(*left) * second(*right);
                    *lane += first(*left) * first(*right);
                }
            }
            *sums = lanes;
        }
        destination.write(&sums.0, tile.count, tile.width);
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
