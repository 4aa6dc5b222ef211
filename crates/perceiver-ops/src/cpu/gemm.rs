//! Matrix multiplication (GEMM) on slices: the one place that calls the `gemm` crate.

use gemm::Parallelism;

use crate::cpu::simd::LANES;

/// A matrix view of a slice with arbitrary strides.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Creates a row-major matrix.
    pub(crate) fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self {
            values,
            rows,
            columns,
            row_stride: columns,
            column_stride: 1,
        }
    }

    /// Returns the transposed view.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Returns a row of a matrix with adjacent columns.
    pub(crate) fn row(self, row: usize) -> &'a [f32] {
        &self.values[row * self.row_stride..][..self.columns]
    }

    /// Returns whether every entry lies inside the slice.
    fn is_inside(&self) -> bool {
        let last = |count: usize, stride: usize| count.saturating_sub(1).checked_mul(stride);
        let reach = last(self.rows, self.row_stride)
            .zip(last(self.columns, self.column_stride))
            .and_then(|(row, column)| row.checked_add(column));
        self.rows * self.columns == 0 || reach.is_some_and(|reach| reach < self.values.len())
    }
}

/// The destination of a product: rows of a slice with an arbitrary stride.
pub(crate) struct Target<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) row_stride: usize,
}

impl Target<'_> {
    /// Returns the same destination for one of several products.
    pub(crate) fn reborrow(&mut self) -> Target<'_> {
        Target {
            values: self.values,
            row_stride: self.row_stride,
        }
    }
}

/// Whether a product replaces the destination or is added to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sum {
    Replace,
    Add,
}

/// Computes `scale * lhs * rhs` into the matrix `[lhs.rows, rhs.columns]` in `target`, replacing or
/// adding.
///
/// # Panics
/// When the shapes do not fit or a matrix reaches beyond its slice: an error of the calling kernel,
/// not of its input.
#[allow(unsafe_code)]
pub(crate) fn multiply_into(
    Target { values, row_stride }: Target,
    sum: Sum,
    lhs: Matrix,
    rhs: Matrix,
    scale: f32,
    parallelism: Parallelism,
) {
    assert_eq!(lhs.columns, rhs.rows, "inner dimensions of a product");
    let (rows, columns) = (lhs.rows, rhs.columns);
    let output = Matrix {
        values,
        rows,
        columns,
        row_stride,
        column_stride: 1,
    };
    assert!(
        row_stride >= columns && output.is_inside(),
        "a product's rows overlap or reach beyond their slice"
    );
    assert!(
        lhs.is_inside() && rhs.is_inside(),
        "a matrix reaches beyond its slice"
    );
    // gemm copies an entire operand whose rows do not end at a vector boundary, so the rest is
    // multiplied separately.
    let whole = columns - columns % LANES;
    for part in [0..whole, whole..columns] {
        if part.is_empty() {
            continue;
        }
        // SAFETY: the assertions above guarantee that every entry of both operands and of the
        // product lies inside its slice, and that the product's entries are distinct; a part of the
        // columns is inside if all are; strides are not negative; the slice of the product is
        // borrowed mutably, so no operand shares it. gemm reads the previous values only if `sum`
        // is `Add`.
        unsafe {
            gemm::gemm(
                rows,
                part.len(),
                lhs.columns,
                values.as_mut_ptr().wrapping_add(part.start),
                1,
                signed(row_stride),
                sum == Sum::Add,
                lhs.values.as_ptr(),
                signed(lhs.column_stride),
                signed(lhs.row_stride),
                rhs.values
                    .as_ptr()
                    .wrapping_add(part.start * rhs.column_stride),
                signed(rhs.column_stride),
                signed(rhs.row_stride),
                1f32,
                scale,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}

/// Converts a stride to gemm's type. No allocation is as long as `isize::MAX`, so the cast keeps
/// the value.
#[allow(clippy::cast_possible_wrap)]
fn signed(stride: usize) -> isize {
    stride as isize
}
