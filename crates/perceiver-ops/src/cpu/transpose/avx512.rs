//! The transpose of a square in AVX-512 registers, which compilers do not find by themselves.

use std::arch::x86_64::{
    __m512i, _mm512_loadu_si512, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_storeu_si512,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use super::{SQUARE, Square};

/// Transposes a square of 32-bit numbers.
///
/// # Safety
/// The CPU has AVX-512.
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) unsafe fn swap_all<T: bytemuck::Pod>(square: &mut Square<T>) {
    const { assert!(size_of::<[T; SQUARE]>() == size_of::<__m512i>()) };
    let mut rows = [_mm512_setzero_si512(); SQUARE];
    for (row, line) in rows.iter_mut().zip(square.iter()) {
        // SAFETY: a line is as long as a register.
        *row = unsafe { _mm512_loadu_si512(line.as_ptr().cast()) };
    }
    // Squares of 2 x 2, then of 4 x 4, inside the 128-bit parts of the registers.
    let mut pairs = rows;
    for row in (0..SQUARE).step_by(2) {
        pairs[row] = _mm512_unpacklo_epi32(rows[row], rows[row + 1]);
        pairs[row + 1] = _mm512_unpackhi_epi32(rows[row], rows[row + 1]);
    }
    for row in (0..SQUARE).step_by(4) {
        for half in 0..2 {
            let (upper, lower) = (pairs[row + half], pairs[row + half + 2]);
            rows[row + 2 * half] = _mm512_unpacklo_epi64(upper, lower);
            rows[row + 2 * half + 1] = _mm512_unpackhi_epi64(upper, lower);
        }
    }
    // The 4 x 4 parts themselves.
    for row in [0, 1, 2, 3, 8, 9, 10, 11] {
        let (upper, lower) = (rows[row], rows[row + 4]);
        pairs[row] = _mm512_shuffle_i32x4::<0b10_00_10_00>(upper, lower);
        pairs[row + 4] = _mm512_shuffle_i32x4::<0b11_01_11_01>(upper, lower);
    }
    for row in 0..SQUARE / 2 {
        let (upper, lower) = (pairs[row], pairs[row + 8]);
        rows[row] = _mm512_shuffle_i32x4::<0b10_00_10_00>(upper, lower);
        rows[row + 8] = _mm512_shuffle_i32x4::<0b11_01_11_01>(upper, lower);
    }
    for (row, line) in rows.iter().zip(square.iter_mut()) {
        // SAFETY: likewise.
        unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), *row) };
    }
}
