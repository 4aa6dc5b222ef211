//! Separable linear resampling of planes.
//!
//! Resize, flip and zoom each map a plane `X` of shape `[height, width]` to `A X B^T` with sparse
//! matrices ([`Interpolation`]). The matrices compose, `A = zoom * flip * resize` along each axis,
//! so an image is read and written only once.
//!
//! ```
//! use perceiver_data::{Interpolation, resample};
//!
//! let plane = [0.0, 4.0, 8.0, 12.0]; // [2, 2]
//! let mirror = Interpolation::flip(2);
//! let keep = Interpolation::resize(2, 2, false);
//! assert_eq!(resample(&plane, &keep, &mirror), [4.0, 0.0, 12.0, 8.0]);
//! ```

use crate::transforms::interpolation::Interpolation;

/// Computes `A X B^T` for one plane:
/// `[rows.input_len, columns.input_len] -> [rows.output_len, columns.output_len]`.
///
/// # Panics
/// When `plane` has another size.
pub fn resample(plane: &[f32], rows: &Interpolation, columns: &Interpolation) -> Vec<f32> {
    let width = columns.input_len();
    assert_eq!(
        plane.len(),
        rows.input_len() * width,
        "the plane has the input size"
    );
    let mut output = vec![0.0; rows.output_len() * columns.output_len()];
    let read = |row: usize, into: &mut [f32]| {
        into.copy_from_slice(&plane[row * width..][..width]);
    };
    resample_into(rows, columns, read, &mut Scratch::default(), &mut output);
    output
}

/// Scratch memory of [`resample_into`], reused for all planes.
#[derive(Default)]
pub(crate) struct Scratch {
    /// One input row.
    row: Vec<f32>,
    /// `[input rows, output columns]`.
    resampled_rows: Vec<f32>,
}

/// Computes [`resample`] of a plane whose `n`-th row is written by `read(n, row)`.
pub(crate) fn resample_into(
    rows: &Interpolation,
    columns: &Interpolation,
    mut read: impl FnMut(usize, &mut [f32]),
    scratch: &mut Scratch,
    output: &mut [f32],
) {
    let width = columns.output_len();
    scratch.row.resize(columns.input_len(), 0.0);
    scratch.resampled_rows.resize(rows.input_len() * width, 0.0);
    for (row, resampled) in scratch.resampled_rows.chunks_exact_mut(width).enumerate() {
        read(row, &mut scratch.row);
        columns.apply_to_row(&scratch.row, resampled);
    }
    rows.apply_to_rows(&scratch.resampled_rows, width, output);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_are_not_swapped() {
        let plane = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]; // [2, 3]
        let same = |len| Interpolation::resize(len, len, false);
        assert_eq!(
            resample(&plane, &Interpolation::flip(2), &same(3)),
            [4.0, 5.0, 6.0, 1.0, 2.0, 3.0]
        );
        assert_eq!(
            resample(&plane, &same(2), &Interpolation::flip(3)),
            [3.0, 2.0, 1.0, 6.0, 5.0, 4.0]
        );
    }
}
