//! Matrix products on slices: the one place that calls the `gemm` crate.

use gemm::Parallelism;

/// A matrix inside a slice, at any strides.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix stored row by row.
    pub(crate) fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self {
            values,
            rows,
            columns,
            row_stride: columns,
            column_stride: 1,
        }
    }

    /// The same values seen with rows and columns exchanged.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Whether every entry lies inside the slice.
    fn is_inside(&self) -> bool {
        let last = |count: usize, stride: usize| count.saturating_sub(1).checked_mul(stride);
        let reach = last(self.rows, self.row_stride)
            .zip(last(self.columns, self.column_stride))
            .and_then(|(row, column)| row.checked_add(column));
        self.rows * self.columns == 0 || reach.is_some_and(|reach| reach < self.values.len())
    }
}

/// `output` `[lhs.rows, rhs.columns]`, row by row, becomes `scale * lhs * rhs`.
///
/// # Panics
/// When the shapes do not fit or a matrix reaches beyond its slice: an error of the calling kernel, not of its input.
#[allow(unsafe_code)]
pub(crate) fn multiply(
    lhs: Matrix,
    rhs: Matrix,
    scale: f32,
    output: &mut [f32],
    parallelism: Parallelism,
) {
    assert_eq!(lhs.columns, rhs.rows, "inner dimensions of a product");
    assert_eq!(output.len(), lhs.rows * rhs.columns, "size of a product");
    assert!(
        lhs.is_inside() && rhs.is_inside(),
        "a matrix reaches beyond its slice"
    );
    // SAFETY: the assertions above say that every entry of both operands lies inside its slice, strides are not
    // negative, and `output` is an exclusive slice of exactly rows * columns values, written row by row. gemm does not
    // read it, since `read_dst` is false.
    unsafe {
        gemm::gemm(
            lhs.rows,
            rhs.columns,
            lhs.columns,
            output.as_mut_ptr(),
            1,
            signed(rhs.columns),
            false,
            lhs.values.as_ptr(),
            signed(lhs.column_stride),
            signed(lhs.row_stride),
            rhs.values.as_ptr(),
            signed(rhs.column_stride),
            signed(rhs.row_stride),
            0f32,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// A stride as gemm takes it. No allocation is as long as `isize::MAX`, so the cast keeps the value.
#[allow(clippy::cast_possible_wrap)]
fn signed(stride: usize) -> isize {
    stride as isize
}
