//! The kernel for `f32` on CPUs with AVX2 and FMA.
//!
//! The sums of 6 rows and 16 columns take 12 of 16 registers; two hold columns and one holds a value
//! of a row.

use std::arch::x86_64::{
    __m256, _MM_HINT_T0, _mm_prefetch, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_mul_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

use super::format::{F32_COLUMNS, Format};
use super::tile::{Destination, Tile};

/// Most rows of a tile.
pub(super) const ROWS: usize = 6;

/// Number of sums in a register.
const LANES: usize = 8;

/// Number of registers that hold the sums of a row.
const VECTORS: usize = F32_COLUMNS / LANES;

/// Computes a tile.
///
/// # Safety
/// The CPU has AVX2 and FMA.
#[allow(unsafe_code)]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run(tile: Tile, destination: &mut Destination) {
    tile.check(Format::F32, tile.count, tile.units);
    destination.check(tile.count, tile.width);
    macro_rules! of_height {
        ($($rows:literal)*) => {
            match tile.count {
                // SAFETY: the CPU has the instructions by this function's contract; tile and
                // destination were checked.
                $($rows => unsafe { multiply::<$rows>(tile, destination) },)*
                rows => unreachable!("a tile of {rows} rows"),
            }
        };
    }
    of_height!(1 2 3 4 5 6);
}

/// Computes a tile of `ROWS` rows.
///
/// # Safety
/// The CPU has AVX2 and FMA, and `tile.check(Format::F32, ROWS, tile.units)` and
/// `destination.check(ROWS, tile.width)` pass.
#[allow(unsafe_code)]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply<const ROWS: usize>(tile: Tile, destination: &mut Destination) {
    if tile.width < F32_COLUMNS {
        // SAFETY: by the contract.
        let registers = unsafe { add_up::<ROWS>(tile) };
        let mut sums = [[0f32; F32_COLUMNS]; ROWS];
        for (sums, registers) in sums.iter_mut().zip(registers) {
            for (sums, register) in sums.as_chunks_mut::<LANES>().0.iter_mut().zip(registers) {
                // SAFETY: the chunk has as many values as the register.
                unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), register) };
            }
        }
        return destination.write(&sums, ROWS, tile.width);
    }
    let first = destination.values.as_mut_ptr();
    for row in 0..ROWS {
        // Both ends of the row; loading it only when the sums are complete would take as long as a
        // tenth of the tile.
        let row = first.wrapping_add(row * destination.row_stride);
        _mm_prefetch::<_MM_HINT_T0>(row.cast());
        _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(F32_COLUMNS - 1).cast());
    }
    // SAFETY: by the contract.
    let sums = unsafe { add_up::<ROWS>(tile) };
    let scale = _mm256_set1_ps(destination.scale);
    for vector in 0..VECTORS {
        let column = vector * LANES;
        let bias = match destination.bias {
            // SAFETY: the bias has a value for each of the tile's columns.
            Some(bias) => unsafe { _mm256_loadu_ps(bias.as_ptr().add(column)) },
            None => _mm256_setzero_ps(),
        };
        for (row, sums) in sums.iter().enumerate() {
            let mut value = _mm256_mul_ps(scale, sums[vector]);
            // SAFETY: the destination has `ROWS` rows of the tile's columns.
            unsafe {
                let to = first.add(row * destination.row_stride + column);
                if destination.add {
                    value = _mm256_add_ps(_mm256_loadu_ps(to), value);
                }
                if destination.bias.is_some() {
                    value = _mm256_add_ps(value, bias);
                }
                _mm256_storeu_ps(to, value);
            }
        }
    }
}

/// Computes the sums of `ROWS` rows and all columns, in registers.
///
/// # Safety
/// The CPU has AVX2 and FMA, and `tile.check(Format::F32, ROWS, tile.units)` passes.
#[allow(unsafe_code)]
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn add_up<const ROWS: usize>(tile: Tile) -> [[__m256; VECTORS]; ROWS] {
    const LINE: usize = Format::F32.line();
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; ROWS];
    let mut rows = tile.rows.as_ptr().cast::<f32>();
    let mut columns = tile.columns.as_ptr().cast::<f32>();
    for _ in 0..tile.units {
        // SAFETY: the panel has `tile.units` rows of `F32_COLUMNS` values, and there are `ROWS`
        // packed rows, `LINE` apart, of at least `tile.units` values. One past the last is still in
        // the slice or at its end. A unit has the bits of an `f32`.
        unsafe {
            let first = _mm256_loadu_ps(columns);
            let second = _mm256_loadu_ps(columns.add(LANES));
            for (row, sums) in sums.iter_mut().enumerate() {
                let left = _mm256_broadcast_ss(&*rows.add(row * LINE));
                sums[0] = _mm256_fmadd_ps(left, first, sums[0]);
                sums[1] = _mm256_fmadd_ps(left, second, sums[1]);
            }
            columns = columns.add(F32_COLUMNS);
            rows = rows.add(1);
        }
    }
    sums
}
