//! The transpose of a bf16 matrix as the left operand of products.

use half::bf16;
use half::slice::HalfBitsSliceExt;

use super::kernel::{Bf16Kernel, Instructions};
use super::operand::Operand;
use super::pack::{pack_rows, rows_len};
use super::packed_matrix::PackedMatrix;
use super::unpacked::{Lhs, RowMajor};

/// The transpose of a matrix, in the form that a kernel reads: packed as a right operand is, whose
/// panels have the pairs of 32 columns next to each other, or row by row for AMX.
pub(crate) struct Transposed {
    kernel: Bf16Kernel,
    packed: PackedMatrix,
    by_rows: PairRows,
}

/// Rows of pairs.
#[derive(Default)]
struct PairRows {
    pairs: Vec<u32>,
    rows: usize,
    /// Number of values of a row.
    columns: usize,
    /// Number of pairs from one row to the next.
    row_stride: usize,
}

impl Transposed {
    /// Creates an empty operand to pack matrices in, one after another.
    pub(crate) fn new(kernel: Bf16Kernel) -> Self {
        Self {
            kernel,
            packed: PackedMatrix::default(),
            by_rows: PairRows::default(),
        }
    }

    /// Packs the transpose of a matrix.
    pub(crate) fn of(kernel: Bf16Kernel, matrix: RowMajor) -> Self {
        let mut transposed = Self::new(kernel);
        transposed.pack(matrix);
        transposed
    }

    /// Packs the transpose of a matrix in place of this one, in the same memory if it is large enough.
    ///
    /// # Panics
    /// When the matrix reaches beyond its slice: an error of the calling operation.
    pub(crate) fn pack(&mut self, matrix: RowMajor) {
        if self.is_by_rows() {
            self.by_rows.pack(Operand::from(matrix).transposed());
        } else {
            self.packed.pack(matrix);
        }
    }

    /// Returns the operand.
    pub(crate) fn lhs(&self) -> Lhs<'_> {
        if self.is_by_rows() {
            Lhs::Rows(self.by_rows.matrix())
        } else {
            Lhs::Packed(&self.packed)
        }
    }

    fn is_by_rows(&self) -> bool {
        match self.kernel.0 {
            #[cfg(target_arch = "x86_64")]
            Instructions::Amx => true,
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => false,
            Instructions::Portable => false,
        }
    }
}

impl PairRows {
    fn pack(&mut self, matrix: Operand) {
        assert!(
            matrix.is_inside(),
            "a matrix to transpose reaches beyond its slice"
        );
        self.rows = matrix.rows;
        self.columns = matrix.columns;
        self.row_stride = row_stride(matrix.columns);
        let len = rows_len(matrix.rows, self.row_stride);
        self.pairs.resize(len, 0);
        pack_rows(
            &matrix,
            0..matrix.rows,
            0..matrix.columns,
            &mut self.pairs,
            self.row_stride,
        );
    }

    fn matrix(&self) -> RowMajor<'_> {
        let values: &[u16] = bytemuck::cast_slice(&self.pairs);
        let values: &[bf16] = values.reinterpret_cast();
        RowMajor {
            row_stride: 2 * self.row_stride,
            ..RowMajor::new(values, self.rows, self.columns)
        }
    }
}

/// Returns the number of pairs of a row of `columns` values: whole lines of a core's cache, and no
/// multiple of a kilobyte, at which few of them fit it.
fn row_stride(columns: usize) -> usize {
    const LINE: usize = 16;
    let stride = columns.div_ceil(2 * LINE) * LINE;
    if stride.is_multiple_of(16 * LINE) {
        stride + LINE
    } else {
        stride
    }
}
