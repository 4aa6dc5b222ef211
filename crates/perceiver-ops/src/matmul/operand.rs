//! An operand of a product: a matrix of f32 or bf16 values with arbitrary strides.

use std::ops::Range;

use candle_core::{CpuStorage, Layout, Result, bail};
use half::bf16;

use super::unpacked::RowMajor;
use crate::cpu::gemm::Matrix;

/// A matrix view of a slice.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(super) values: Values<'a>,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

/// The values of an operand.
#[derive(Clone, Copy)]
pub(super) enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl<'a> Operand<'a> {
    /// Creates a view of a matrix on the CPU, in whichever order it is.
    ///
    /// # Errors
    /// When the type is neither f32 nor bf16, or it is no matrix.
    pub(crate) fn of_tensor(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let start = layout.start_offset();
        let values = match storage {
            CpuStorage::F32(values) => Values::F32(&values[start..]),
            CpuStorage::BF16(values) => Values::Bf16(&values[start..]),
            _ => bail!("matrix to pack: expected f32 or bf16 values"),
        };
        let (&[rows, columns], &[row_stride, column_stride]) = (layout.dims(), layout.stride())
        else {
            bail!(
                "matrix to pack: expected two dimensions, found {:?}",
                layout.dims()
            );
        };
        Ok(Self {
            values,
            rows,
            columns,
            row_stride,
            column_stride,
        })
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

    /// Returns some of the columns.
    pub(super) fn columns(&self, range: Range<usize>) -> Self {
        let first = range.start * self.column_stride;
        Self {
            values: match self.values {
                Values::F32(values) => Values::F32(values.get(first..).unwrap_or_default()),
                Values::Bf16(values) => Values::Bf16(values.get(first..).unwrap_or_default()),
            },
            columns: range.len(),
            ..*self
        }
    }

    /// Returns whether every entry lies inside the slice.
    pub(super) fn is_inside(&self) -> bool {
        let len = match self.values {
            Values::F32(values) => values.len(),
            Values::Bf16(values) => values.len(),
        };
        let last = |count: usize, stride: usize| count.saturating_sub(1).checked_mul(stride);
        let reach = last(self.rows, self.row_stride)
            .zip(last(self.columns, self.column_stride))
            .and_then(|(row, column)| row.checked_add(column));
        self.rows * self.columns == 0 || reach.is_some_and(|reach| reach < len)
    }
}

impl<'a> From<Matrix<'a>> for Operand<'a> {
    fn from(matrix: Matrix<'a>) -> Self {
        Self {
            values: Values::F32(matrix.values),
            rows: matrix.rows,
            columns: matrix.columns,
            row_stride: matrix.row_stride,
            column_stride: matrix.column_stride,
        }
    }
}

impl<'a> From<RowMajor<'a>> for Operand<'a> {
    fn from(matrix: RowMajor<'a>) -> Self {
        Self {
            values: Values::Bf16(matrix.values),
            rows: matrix.rows,
            columns: matrix.columns,
            row_stride: matrix.row_stride,
            column_stride: 1,
        }
    }
}
