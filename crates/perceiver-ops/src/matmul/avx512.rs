//! The kernel for AVX512-BF16: AMD since Zen 4, Intel's servers since Cooper Lake.
//!
//! `vdpbf16ps` multiplies 16 pairs of columns by a pair of a row and adds both products to 16 sums.
//! The sums of 12 rows and 32 columns take 24 of 32 registers.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, __mmask16, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_loadu_si512,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setzero_ps,
};

use super::tile::{Destination, PAIRS, TILE_COLUMNS, Tile};

/// Most rows of a tile.
pub(super) const ROWS: usize = 12;

/// Number of sums in a register.
pub(super) const LANES: usize = 16;

/// Computes a tile.
///
/// # Safety
/// The CPU has AVX512-BF16.
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn run(tile: Tile, destination: &mut Destination) {
    tile.check(tile.count, tile.pairs);
    destination.check(tile.count, tile.width);
    macro_rules! of_height {
        ($($rows:literal)*) => {
            match (tile.count, tile.width > LANES) {
                // SAFETY: the CPU has the instructions by this function's contract; tile and
                // destination were checked.
                $(
                    ($rows, true) => unsafe { multiply::<$rows, 2>(tile, destination) },
                    ($rows, false) => unsafe { multiply::<$rows, 1>(tile, destination) },
                )*
                (rows, _) => unreachable!("a tile of {rows} rows"),
            }
        };
    }
    of_height!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// Computes a tile of `ROWS` rows and at most `VECTORS` times 16 columns.
///
/// # Safety
/// The CPU has AVX512-BF16, and `tile.check(ROWS, tile.pairs)` and
/// `destination.check(ROWS, tile.width)` pass.
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn multiply<const ROWS: usize, const VECTORS: usize>(
    tile: Tile,
    destination: &mut Destination,
) {
    // SAFETY: by the contract.
    let sums = unsafe { add_up::<ROWS, VECTORS>(tile) };
    let scale = _mm512_set1_ps(destination.scale);
    for vector in 0..VECTORS {
        let column = vector * LANES;
        let mask = mask(tile.width - column);
        let bias = match destination.bias {
            // SAFETY: the bias has `tile.width` values; the mask excludes those beyond.
            Some(bias) => unsafe { _mm512_maskz_loadu_ps(mask, bias.as_ptr().add(column)) },
            None => _mm512_setzero_ps(),
        };
        for (row, sums) in sums.iter().enumerate() {
            let start = row * destination.row_stride + column;
            let mut value = _mm512_mul_ps(scale, sums[vector]);
            // SAFETY: the destination has `ROWS` rows of `tile.width` values; the mask excludes
            // those beyond.
            unsafe {
                let to = destination.values.as_mut_ptr().add(start);
                if destination.add {
                    value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), value);
                }
                if destination.bias.is_some() {
                    value = _mm512_add_ps(value, bias);
                }
                _mm512_mask_storeu_ps(to, mask, value);
            }
        }
    }
}

/// Returns the mask of the first `count` lanes, or of all.
pub(super) fn mask(count: usize) -> __mmask16 {
    if count >= LANES {
        __mmask16::MAX
    } else {
        (1 << count) - 1
    }
}

/// Computes the sums of `ROWS` rows and `VECTORS` times 16 columns, all in registers.
///
/// # Safety
/// The CPU has AVX512-BF16, and `tile.check(ROWS, tile.pairs)` passes.
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
unsafe fn add_up<const ROWS: usize, const VECTORS: usize>(tile: Tile) -> [[__m512; VECTORS]; ROWS] {
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    let (mut rows, mut columns) = (tile.rows.as_ptr(), tile.columns.as_ptr());
    for _ in 0..tile.pairs {
        // SAFETY: the panel has `tile.pairs` rows of `TILE_COLUMNS` pairs, and there are `ROWS`
        // packed rows, `PAIRS` apart, of at least `tile.pairs` pairs. One past the last is still
        // in the slice or at its end.
        unsafe {
            let first = bf16s(_mm512_loadu_si512(columns.cast()));
            let second = bf16s(_mm512_loadu_si512(columns.add(LANES).cast()));
            for (row, sums) in sums.iter_mut().enumerate() {
                let left = (*rows.add(row * PAIRS)).cast_signed();
                let left = bf16s(_mm512_set1_epi32(left));
                sums[0] = _mm512_dpbf16_ps(sums[0], left, first);
                if VECTORS == 2 {
                    sums[VECTORS - 1] = _mm512_dpbf16_ps(sums[VECTORS - 1], left, second);
                }
            }
            columns = columns.add(TILE_COLUMNS);
            rows = rows.add(1);
        }
    }
    sums
}

/// Reads a register as 32 bf16 numbers.
#[allow(unsafe_code)]
#[inline(always)]
pub(super) fn bf16s(pairs: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits, and all bits are valid.
    unsafe { std::mem::transmute(pairs) }
}
