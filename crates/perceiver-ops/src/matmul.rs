//! Batched matrix products with one product a core, in place of one product on all cores.
//!
//! candle's CPU product of `[batch, m, k] x [batch, k, n]` threads inside each small product, one after another. The
//! products of attention are small and many, so here each runs on one thread and they run side by side. Any strides
//! are read as they are: neither a transposed operand nor a broadcast batch is copied.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use gemm::Parallelism;
use rayon::prelude::*;

use crate::cpu;
use crate::gemm::{Matrix, multiply};

/// `a` `[..., m, k]` times `b` `[..., k, n]`: `[..., m, n]`, with equal leading dimensions.
///
/// # Errors
/// When the shapes do not fit.
pub fn batched_matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.rank() > 2 && cpu::has_kernels(a) && cpu::has_kernels(b) {
        a.apply_op2(b, BatchedMatmul::PLAIN)
    } else {
        batched_matmul_composed(a, b)
    }
}

/// [`batched_matmul`] by candle's own product: what every device runs that has no kernel, and what the kernel is
/// tested against.
pub fn batched_matmul_composed(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.contiguous()?.matmul(&b.contiguous()?)
}

/// The transpose of `a` `[..., k, m]` times `b` `[..., k, n]`: `[..., m, n]`, with equal leading dimensions.
///
/// # Errors
/// When the shapes do not fit.
pub fn batched_matmul_transposed(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.rank() > 2 && cpu::has_kernels(a) && cpu::has_kernels(b) {
        let op = BatchedMatmul {
            transpose_a: true,
            ..BatchedMatmul::PLAIN
        };
        a.apply_op2(b, op)
    } else {
        batched_matmul_transposed_composed(a, b)
    }
}

/// [`batched_matmul_transposed`] by candle's own operations: what every device runs that has no kernel, and what the
/// kernel is tested against.
pub fn batched_matmul_transposed_composed(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.t()?.contiguous()?.matmul(&b.contiguous()?)
}

/// Attention logits: `scale` times `queries` `[..., m, k]` times the transpose of `keys` `[..., n, k]`: `[..., m, n]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn attention_logits(queries: &Tensor, keys: &Tensor, scale: f64) -> Result<Tensor> {
    if queries.rank() > 2 && cpu::has_kernels(queries) && cpu::has_kernels(keys) {
        let op = BatchedMatmul {
            transpose_b: true,
            scale: scale as f32,
            ..BatchedMatmul::PLAIN
        };
        queries.apply_op2(keys, op)
    } else {
        attention_logits_composed(queries, keys, scale)
    }
}

/// [`attention_logits`] by candle's own operations: what every device runs that has no kernel, and what the kernel is
/// tested against.
pub fn attention_logits_composed(queries: &Tensor, keys: &Tensor, scale: f64) -> Result<Tensor> {
    let queries = (queries * scale)?.contiguous()?;
    queries.matmul(&keys.t()?.contiguous()?)
}

/// `scale * op(a) * op(b)`, where `op` transposes the last two dimensions or does nothing. Gradients are products of
/// the same kind, so nothing is ever transposed in memory.
#[derive(Clone, Copy)]
struct BatchedMatmul {
    transpose_a: bool,
    transpose_b: bool,
    scale: f32,
}

impl BatchedMatmul {
    const PLAIN: Self = Self {
        transpose_a: false,
        transpose_b: false,
        scale: 1.0,
    };
}

impl CustomOp2 for BatchedMatmul {
    fn name(&self) -> &'static str {
        "batched-matmul"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (CpuStorage::F32(a), CpuStorage::F32(b)) = (a, b) else {
            bail!("{}: expected f32 values on both sides", self.name());
        };
        let lhs = Matrices::new(a, a_layout, self.transpose_a);
        let rhs = Matrices::new(b, b_layout, self.transpose_b);
        if lhs.batch != rhs.batch || lhs.first.columns != rhs.first.rows {
            bail!(
                "{}: shapes {:?} and {:?} do not fit",
                self.name(),
                a_layout.dims(),
                b_layout.dims()
            );
        }
        let (rows, columns) = (lhs.first.rows, rhs.first.columns);
        let mut output = vec![0f32; lhs.offsets.len() * rows * columns];
        output
            .par_chunks_mut((rows * columns).max(1))
            .zip(lhs.offsets.par_iter().zip(&rhs.offsets))
            .for_each(|(output, (&a, &b))| {
                multiply(lhs.at(a), rhs.at(b), self.scale, output, Parallelism::None);
            });
        let shape = [lhs.batch, &[rows, columns]].concat();
        Ok((CpuStorage::F32(output), Shape::from(shape)))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let form = |transpose_a, transpose_b| Self {
            transpose_a,
            transpose_b,
            scale: self.scale,
        };
        let product = |lhs: &Tensor, rhs: &Tensor, form: Self| lhs.apply_op2_no_bwd(rhs, &form);
        let (da, db) = match (self.transpose_a, self.transpose_b) {
            // y = a b
            (false, false) => (
                product(grad, b, form(false, true))?,
                product(a, grad, form(true, false))?,
            ),
            // y = a b^T
            (false, true) => (
                product(grad, b, form(false, false))?,
                product(grad, a, form(true, false))?,
            ),
            // y = a^T b
            (true, false) => (
                product(b, grad, form(false, true))?,
                product(a, grad, form(false, false))?,
            ),
            // y = a^T b^T
            (true, true) => (
                product(b, grad, form(true, true))?,
                product(grad, a, form(true, true))?,
            ),
        };
        Ok((Some(da), Some(db)))
    }
}

/// A batch of matrices inside a buffer, each at its own offset, all of one shape.
struct Matrices<'a> {
    batch: &'a [usize],
    offsets: Vec<usize>,
    /// The matrix at offset 0.
    first: Matrix<'a>,
}

impl<'a> Matrices<'a> {
    /// Views a tensor of rank two or more as matrices.
    fn new(values: &'a [f32], layout: &'a Layout, transpose: bool) -> Self {
        let (dims, strides) = (layout.dims(), layout.stride());
        let batch_rank = dims.len() - 2;
        let mut offsets = vec![layout.start_offset()];
        for (&dim, &stride) in dims.iter().zip(strides).take(batch_rank) {
            offsets = offsets
                .iter()
                .flat_map(|offset| (0..dim).map(move |i| offset + i * stride))
                .collect();
        }
        let stored = Matrix {
            values,
            rows: dims[batch_rank],
            columns: dims[batch_rank + 1],
            row_stride: strides[batch_rank],
            column_stride: strides[batch_rank + 1],
        };
        Self {
            batch: &dims[..batch_rank],
            offsets,
            first: if transpose {
                stored.transposed()
            } else {
                stored
            },
        }
    }

    fn at(&self, offset: usize) -> Matrix<'_> {
        Matrix {
            values: &self.first.values[offset..],
            ..self.first
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_product_known_by_hand() {
        let a = Tensor::new(&[[[1f32, 2.0]], [[3.0, 4.0]]], &Device::Cpu).unwrap(); // [2, 1, 2]
        let b = Tensor::new(&[[[1f32], [10.0]], [[100.0], [1000.0]]], &Device::Cpu).unwrap(); // [2, 2, 1]
        let product = batched_matmul(&a, &b).unwrap().to_vec3::<f32>().unwrap();
        assert_eq!(product, [[[21.0]], [[4300.0]]]);
        let logits = attention_logits(&a, &a, 0.5).unwrap();
        assert_eq!(logits.to_vec3::<f32>().unwrap(), [[[2.5]], [[12.5]]]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let a = Tensor::zeros((2, 3, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        let error = batched_matmul(&a, &a).unwrap_err().to_string();
        assert!(
            error.contains("[2, 3, 4] and [2, 3, 4] do not fit"),
            "{error}"
        );
    }
}
