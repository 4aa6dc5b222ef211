//! A right operand in bf16, packed once for any number of products.

use std::ops::Range;

use candle_core::{Result, Storage, Tensor, bail};
use half::bf16;
use rayon::prelude::*;

use super::kernel::Bf16Kernel;
use super::operand::Operand;
use super::pack::{columns_len, pack_columns};
use super::product::{Epilogue, multiply_packed};
use super::tile::{PAIRS, TILE_COLUMNS};
use super::unpacked::{self, Lhs, Product, RowMajor};
use crate::cpu::gemm::{Matrix, Sum, Target};

/// A matrix `[rows, columns]`, rounded to bf16 and packed as the right operand of products.
///
/// The inner dimension is split into blocks of nearly equal size, each of one part if it has several
/// parts. A block is packed by panels of columns, `[panels, pairs, columns of a panel]`.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use perceiver_ops::{Bf16Kernel, PackedMatrix};
///
/// let matrix = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu)?;
/// let matrix = PackedMatrix::from_tensor(&matrix)?;
/// let mut product = [0.0; 2];
/// let kernel = Bf16Kernel::fastest().unwrap_or(Bf16Kernel::PORTABLE);
/// matrix.multiply(kernel, &[10.0, 1.0], &mut product)?;
/// assert_eq!(product, [13.0, 24.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct PackedMatrix {
    values: Vec<u32>,
    rows: usize,
    columns: usize,
    /// Number of equal parts of the rows.
    parts: usize,
}

/// Blocks of the inner dimension have multiples of so many values, the depth of a tile register.
const STEP: usize = 32;

/// Number of columns per task of a matrix that is packed in parallel: whole panels.
const TASK_COLUMNS: usize = 4 * TILE_COLUMNS;

const _: () = assert!((2 * PAIRS).is_multiple_of(STEP));

impl PackedMatrix {
    /// Packs a matrix.
    ///
    /// # Panics
    /// When the matrix reaches beyond its slice: an error of the calling kernel.
    pub(crate) fn new<'a>(matrix: impl Into<Operand<'a>>) -> Self {
        let mut packed = Self::default();
        packed.pack(matrix);
        packed
    }

    /// Packs a large matrix on all cores.
    ///
    /// # Panics
    /// As for [`PackedMatrix::new`].
    pub(crate) fn in_parallel<'a>(matrix: impl Into<Operand<'a>>) -> Self {
        let matrix = matrix.into();
        let mut packed = Self::empty(&matrix, 1);
        let mut values = vec![0; packed.len()];
        let mut rest = &mut values[..];
        let mut tasks = Vec::new();
        for depth in packed.depth_blocks() {
            for columns in (0..matrix.columns).step_by(TASK_COLUMNS) {
                let columns = columns..matrix.columns.min(columns + TASK_COLUMNS);
                let (part, after) = rest.split_at_mut(columns_len(columns.len(), depth.len()));
                tasks.push((columns, depth.clone(), part));
                rest = after;
            }
        }
        tasks.into_par_iter().for_each(|(columns, depth, part)| {
            pack_columns(&matrix.columns(columns), depth, part);
        });
        packed.values = values;
        packed
    }

    /// Packs a matrix for left operands whose rows consist of several parts of equal length.
    ///
    /// # Panics
    /// When the parts do not divide the rows, and as for [`PackedMatrix::new`].
    pub(crate) fn in_parts(matrix: Operand, parts: usize) -> Self {
        let mut packed = Self::default();
        packed.pack_parts(matrix, parts);
        packed
    }

    /// Packs another matrix in place of this one, in the same memory if it is large enough.
    ///
    /// # Panics
    /// As for [`PackedMatrix::new`].
    pub(crate) fn pack<'a>(&mut self, matrix: impl Into<Operand<'a>>) {
        self.pack_parts(matrix.into(), 1);
    }

    fn pack_parts(&mut self, matrix: Operand, parts: usize) {
        let values = std::mem::take(&mut self.values);
        *self = Self {
            values,
            ..Self::empty(&matrix, parts)
        };
        self.values.resize(self.len(), 0);
        let blocks = self.depth_blocks();
        let mut rest = &mut self.values[..];
        for depth in blocks {
            let len = columns_len(matrix.columns, depth.len());
            let (block, after) = rest.split_at_mut(len);
            pack_columns(&matrix, depth, block);
            rest = after;
        }
    }

    /// Returns a packed matrix of the same sizes without values.
    fn empty(matrix: &Operand, parts: usize) -> Self {
        assert!(
            matrix.is_inside(),
            "a matrix to pack reaches beyond its slice"
        );
        assert!(
            matrix.rows.is_multiple_of(parts),
            "{} rows are not {parts} equal parts",
            matrix.rows
        );
        Self {
            values: Vec::new(),
            rows: matrix.rows,
            columns: matrix.columns,
            parts,
        }
    }

    /// Returns the number of packed values.
    fn len(&self) -> usize {
        let len = |depth: Range<usize>| columns_len(self.columns, depth.len());
        self.depth_blocks().map(len).sum()
    }

    /// Packs a matrix on the CPU, of type f32 or bf16; a transposed one is packed as fast.
    ///
    /// # Errors
    /// When it is no matrix, has another type or is on another device.
    pub fn from_tensor(matrix: &Tensor) -> Result<Self> {
        let (storage, layout) = matrix.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            bail!("matrix to pack: expected a tensor on the CPU");
        };
        Ok(Self::in_parallel(Operand::of_tensor(storage, layout)?))
    }

    /// Multiplies `lhs` `[n, rows]` by this matrix into `output` `[n, columns]`, both row by row,
    /// on the thread of the caller.
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn multiply(&self, kernel: Bf16Kernel, lhs: &[f32], output: &mut [f32]) -> Result<()> {
        let n = self.rows_of(lhs.len(), output.len())?;
        let lhs = Matrix::new(lhs, n, self.rows);
        let target = Target {
            values: output,
            row_stride: self.columns,
        };
        let epilogue = Epilogue {
            scale: 1.0,
            sum: Sum::Replace,
            bias: None,
        };
        multiply_packed(kernel, target, lhs, self, epilogue);
        Ok(())
    }

    /// Multiplies `lhs` `[n, rows]` by this matrix into `output` `[n, columns]`, both row by row and
    /// in bf16, on the thread of the caller. Sums are `f32`.
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn multiply_bf16(
        &self,
        kernel: Bf16Kernel,
        lhs: &[bf16],
        output: &mut [bf16],
    ) -> Result<()> {
        let n = self.rows_of(lhs.len(), output.len())?;
        let lhs = Lhs::Rows(RowMajor::new(lhs, n, self.rows));
        let product = Product::Bf16 {
            values: output,
            row_stride: self.columns,
        };
        unpacked::multiply(kernel, product, lhs, self, 1.0, None);
        Ok(())
    }

    /// Returns the number of rows of a left operand from the lengths of it and of the product.
    fn rows_of(&self, lhs: usize, output: usize) -> Result<usize> {
        let n = lhs / self.rows.max(1);
        if lhs != n * self.rows || output != n * self.columns {
            bail!(
                "product with a packed matrix {} x {}: {lhs} and {output} values do not fit",
                self.rows,
                self.columns,
            );
        }
        Ok(n)
    }

    /// Returns the matrix with a row of zeros at its end if the number of rows is odd: a left operand
    /// that is read as it is has whole pairs. Packed values have that row already.
    pub(crate) fn with_even_rows(mut self) -> Self {
        self.rows = self.rows.next_multiple_of(2);
        self
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Returns the number of parts of the rows.
    pub(super) fn parts(&self) -> usize {
        self.parts
    }

    /// Returns every block of the inner dimension with its packed values.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (Range<usize>, &[u32])> {
        let mut rest = &self.values[..];
        self.depth_blocks().map(move |depth| {
            let (block, after) = rest.split_at(columns_len(self.columns, depth.len()));
            rest = after;
            (depth, block)
        })
    }

    /// Splits every part of the inner dimension into as few blocks as possible, of whole steps of tile
    /// registers but for the last; one if it is 0.
    fn depth_blocks(&self) -> impl Iterator<Item = Range<usize>> + Clone + use<> {
        let depth = self.rows / self.parts.max(1);
        let count = depth.div_ceil(2 * PAIRS).max(1);
        let size = depth.div_ceil(count).next_multiple_of(STEP);
        (0..self.parts.max(1) * count).map(move |block| {
            let (part, block) = (block / count * depth, block % count);
            part + (block * size).min(depth)..part + ((block + 1) * size).min(depth)
        })
    }
}
