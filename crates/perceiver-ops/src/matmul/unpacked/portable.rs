//! The sums of AVX512-BF16 for operands that are not packed, in the same order, in plain Rust.

use super::{Place, Product, Tile};
use crate::cpu::gemm::Sum;
use crate::cpu::simd::vectorised;
use crate::matmul::rounding::rounded;
use crate::matmul::tile::TILE_COLUMNS;

/// Numbers of rows of a tile.
pub(super) const HEIGHTS: [usize; 2] = [4, 4];

/// Computes a tile.
pub(super) fn run(tile: &Tile, product: &mut Product) {
    let pair_step = if tile.is_packed { 2 * TILE_COLUMNS } else { 2 };
    let Place {
        row: first,
        column: start,
        width,
        scale,
        bias,
    } = tile.place;
    for row in 0..tile.count {
        let mut sums = [0f32; TILE_COLUMNS];
        for block in tile.blocks {
            let step = tile.step(block);
            let lhs = step.lhs[0].get(row * tile.row_step..).unwrap_or_default();
            add_up(&mut sums, lhs, pair_step, step.columns, step.pairs);
        }
        for (column, sum) in sums.into_iter().enumerate().take(width) {
            let value = scale * sum;
            let bias = bias.map(|bias| bias[column]);
            let at = |row_stride: usize| (first + row) * row_stride + start + column;
            match product {
                Product::F32(target, sum) => {
                    let to = &mut target.values[at(target.row_stride)];
                    let value = if *sum == Sum::Add { *to + value } else { value };
                    *to = bias.map_or(value, |bias| value + bias);
                }
                Product::Bf16 { values, row_stride } => {
                    values[at(*row_stride)] = rounded(bias.map_or(value, |bias| value + bias));
                }
            }
        }
    }
}

vectorised! {
    fn add_up(sums: &mut [f32; TILE_COLUMNS], row: &[u16], pair_step: usize, columns: &[u32], pairs: usize) {
        let (columns, _) = columns.as_chunks::<TILE_COLUMNS>();
        for (pair, columns) in columns.iter().enumerate().take(pairs) {
            let [first, second] = [0, 1].map(|half| wide(u32::from(row[pair * pair_step + half])));
            for (sum, right) in sums.iter_mut().zip(columns) {
                *sum += second * f32::from_bits(right & 0xffff_0000);
                *sum += first * wide(*right);
            }
        }
    }
}

#[inline(always)]
fn wide(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}
