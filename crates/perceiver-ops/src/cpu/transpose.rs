//! Matrix transposes on slices.
//!
//! `gemm` reads row-major left operands fastest. It packs a transposed one value by value, which
//! takes almost as long as a small product itself.

#[cfg(target_arch = "x86_64")]
mod avx512;

use crate::cpu::gemm::Matrix;
use crate::cpu::simd::vectorised;

/// Side of the squares transposed in registers or in the first-level cache.
pub(crate) const SQUARE: usize = 16;

type Square<T> = [[T; SQUARE]; SQUARE];

vectorised! {
    /// Writes the transpose of a matrix with adjacent columns to `output`, row by row.
    ///
    /// # Panics
    /// When `output` is shorter than the matrix has values.
    pub(crate) fn transpose(matrix: Matrix, output: &mut [f32]) {
        let Matrix { values, rows, columns, row_stride, .. } = matrix;
        for row in (0..rows).step_by(SQUARE) {
            for column in (0..columns).step_by(SQUARE) {
                let (height, width) = ((rows - row).min(SQUARE), (columns - column).min(SQUARE));
                if height < SQUARE || width < SQUARE {
                    for j in 0..width {
                        for i in 0..height {
                            output[(column + j) * rows + row + i] = values[(row + i) * row_stride + column + j];
                        }
                    }
                    continue;
                }
                let mut square: Square<f32> = [[0.0; SQUARE]; SQUARE];
                for (i, line) in square.iter_mut().enumerate() {
                    line.copy_from_slice(&values[(row + i) * row_stride + column..][..SQUARE]);
                }
                swap_all(&mut square);
                for (j, line) in square.iter().enumerate() {
                    output[(column + j) * rows + row..][..SQUARE].copy_from_slice(line);
                }
            }
        }
    }
}

/// Transposes a square of 32-bit numbers in registers.
#[allow(unsafe_code)]
#[inline(always)]
pub(crate) fn swap_all<T: bytemuck::Pod>(square: &mut Square<T>) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the CPU has the instructions.
        unsafe { avx512::swap_all(square) };
        return;
    }
    swap_by_halves(square);
}

/// Transposes a square by exchanging its off-diagonal halves, then those of each part.
#[inline(always)]
fn swap_by_halves<T: Copy>(square: &mut Square<T>) {
    swap::<T, 1>(square);
    swap::<T, 2>(square);
    swap::<T, 4>(square);
    swap::<T, 8>(square);
}

/// Swaps the two off-diagonal blocks of every block of `2 * SIDE` rows and columns.
#[inline(always)]
fn swap<T: Copy, const SIDE: usize>(square: &mut Square<T>) {
    for i in 0..SQUARE {
        if i & SIDE == 0 {
            let (upper, lower) = (square[i], square[i + SIDE]);
            for j in 0..SQUARE {
                if j & SIDE == 0 {
                    square[i][j + SIDE] = lower[j];
                    square[i + SIDE][j] = upper[j + SIDE];
                }
            }
        }
    }
}

/// Returns the transpose of a matrix with adjacent columns, row by row.
pub(crate) fn transposed(matrix: Matrix) -> Vec<f32> {
    let mut output = vec![0f32; matrix.rows * matrix.columns];
    transpose(matrix, &mut output);
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_transpose_a_square_agree() {
        let number = |row: usize, column: usize| (row * SQUARE + column) as u32;
        let mut square = std::array::from_fn(|row| std::array::from_fn(|j| number(row, j)));
        let expected: Square<u32> =
            std::array::from_fn(|row| std::array::from_fn(|column| number(column, row)));
        swap_all(&mut square);
        assert_eq!(square, expected);
        swap_by_halves(&mut square);
        swap_by_halves(&mut square);
        assert_eq!(square, expected);
    }

    #[test]
    fn transpose_swaps_rows_and_columns() {
        for (rows, columns, row_stride) in [(16, 16, 16), (37, 50, 53), (1, 40, 40), (64, 3, 5)] {
            let values: Vec<f32> = (0..rows * row_stride).map(|i| i as f32).collect();
            let matrix = Matrix {
                row_stride,
                ..Matrix::new(&values, rows, columns)
            };
            let output = transposed(matrix);
            for row in 0..rows {
                for column in 0..columns {
                    let (actual, expected) = (
                        output[column * rows + row],
                        values[row * row_stride + column],
                    );
                    assert_eq!(
                        actual.to_bits(),
                        expected.to_bits(),
                        "{row}, {column} of {rows} x {columns}"
                    );
                }
            }
        }
    }
}
