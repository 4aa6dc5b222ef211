//! The right operand of products in either precision: `f32` by the `gemm` crate, or bf16.

use candle_core::DType;
use gemm::Parallelism;

use super::kernel::Bf16Kernel;
use super::packed_matrix::PackedMatrix;
use super::product::{Epilogue, multiply_packed};
use crate::cpu::gemm::{Matrix, Sum, Target, multiply_into};
use crate::cpu::simd;
use crate::cpu::transpose::{transpose, transposed};

/// How an operation on the CPU multiplies `f32` matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Products {
    F32,
    /// Operands are rounded to bf16, sums are `f32`.
    Bf16(Bf16Kernel),
}

impl Products {
    /// Returns how to multiply for tensors of a type: bf16 if they are, and the CPU has
    /// instructions for it.
    pub(crate) fn of(dtype: DType) -> Self {
        match Bf16Kernel::fastest() {
            Some(kernel) if dtype == DType::BF16 => Self::Bf16(kernel),
            _ => Self::F32,
        }
    }

    /// Returns the transpose of a row-major matrix as a left operand: bf16 is packed from either
    /// order, `f32` is transposed into `buffer`.
    pub(crate) fn transposed_left<'a>(
        self,
        matrix: Matrix<'a>,
        buffer: &'a mut [f32],
    ) -> Matrix<'a> {
        match self {
            Self::Bf16(_) => matrix.transposed(),
            Self::F32 => {
                transpose(matrix, buffer);
                Matrix::new(buffer, matrix.columns, matrix.rows)
            }
        }
    }
}

/// The transpose of a row-major matrix as a left operand that is kept: a copy for `f32`.
pub(crate) enum Left<'a> {
    View(Matrix<'a>),
    /// A copy, row by row, with its rows and columns.
    Copy(Vec<f32>, usize, usize),
}

impl<'a> Left<'a> {
    /// Creates the operand from the row-major matrix.
    pub(crate) fn transposed(products: Products, matrix: Matrix<'a>) -> Self {
        match products {
            Products::Bf16(_) => Self::View(matrix.transposed()),
            Products::F32 => Self::Copy(transposed(matrix), matrix.columns, matrix.rows),
        }
    }

    pub(crate) fn matrix(&self) -> Matrix<'_> {
        match self {
            Self::View(matrix) => *matrix,
            Self::Copy(values, rows, columns) => Matrix::new(values, *rows, *columns),
        }
    }
}

/// A right operand, ready for any number of products.
pub(crate) enum Right<'a> {
    Matrix(Matrix<'a>),
    /// A copy, row by row, with its rows and columns.
    Copy(Vec<f32>, usize, usize),
    Packed(Bf16Kernel, PackedMatrix),
}

impl<'a> Right<'a> {
    /// Creates the operand from a matrix; `f32` is read where it is.
    pub(crate) fn new(products: Products, matrix: Matrix<'a>) -> Self {
        match products {
            Products::F32 => Self::Matrix(matrix),
            Products::Bf16(kernel) => Self::Packed(kernel, PackedMatrix::new(matrix)),
        }
    }

    /// Creates the operand from a row-major matrix for so many products that a copy of rows that are
    /// not adjacent is worth it: a core's cache holds few rows at a distance of a power of two.
    pub(crate) fn compact(products: Products, matrix: Matrix<'a>) -> Self {
        if products != Products::F32 || matrix.row_stride == matrix.columns {
            return Self::new(products, matrix);
        }
        // Row by row: an iterator over all values would copy them one by one.
        let mut values = Vec::with_capacity(matrix.rows * matrix.columns);
        for row in 0..matrix.rows {
            values.extend_from_slice(matrix.row(row));
        }
        Self::Copy(values, matrix.rows, matrix.columns)
    }

    /// Creates the operand from the transpose of a row-major matrix, for so many products that a
    /// copy is worth it: `gemm` need not pack it in each.
    pub(crate) fn transposed(products: Products, matrix: Matrix<'a>) -> Self {
        match products {
            Products::F32 => Self::Copy(transposed(matrix), matrix.columns, matrix.rows),
            Products::Bf16(_) => Self::new(products, matrix.transposed()),
        }
    }

    /// Computes `scale * lhs * self` into `target`, on this thread.
    ///
    /// # Panics
    /// As for [`multiply_into`].
    pub(crate) fn multiply(&self, target: Target, sum: Sum, lhs: Matrix, scale: f32) {
        let matrix = match self {
            Self::Matrix(matrix) => *matrix,
            Self::Copy(values, rows, columns) => Matrix::new(values, *rows, *columns),
            Self::Packed(kernel, packed) => {
                let epilogue = Epilogue {
                    scale,
                    sum,
                    bias: None,
                };
                return multiply_packed(*kernel, target, lhs, packed, epilogue);
            }
        };
        multiply_into(target, sum, lhs, matrix, scale, Parallelism::None);
    }

    /// Computes `lhs * self`, and adds `bias` to every row, into the rows of `output`.
    ///
    /// # Panics
    /// As for [`multiply_into`].
    pub(crate) fn multiply_rows(&self, lhs: Matrix, bias: Option<&[f32]>, output: &mut [f32]) {
        let row_stride = output.len() / lhs.rows.max(1);
        let target = Target {
            values: &mut *output,
            row_stride,
        };
        if let Self::Packed(kernel, packed) = self {
            let epilogue = Epilogue {
                scale: 1.0,
                sum: Sum::Replace,
                bias,
            };
            return multiply_packed(*kernel, target, lhs, packed, epilogue);
        }
        self.multiply(target, Sum::Replace, lhs, 1.0);
        if let Some(bias) = bias {
            simd::add_to_rows(output, bias);
        }
    }
}
