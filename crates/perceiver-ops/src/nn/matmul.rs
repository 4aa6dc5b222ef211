//! Batched matrix multiplication, one product per core.
//!
//! candle's CPU product of `[batch, m, k] x [batch, k, n]` runs the small products in sequence,
//! each with many threads. The products of attention are small and many, so here each runs on one
//! thread, in parallel. Operands with any strides are read without a copy.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
#[cfg(feature = "cuda")]
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

use crate::autograd::custom_function::copied;
use crate::autograd::recorded_ops::{apply_op2, computed2};
use crate::cpu::gemm::Matrix;
#[cfg(feature = "cuda")]
use crate::cuda::profiler::events::timed;
use crate::half_precision::{is_narrow_on_cpu, widened};
use crate::matmul::right::{Products, Right};
use crate::{cpu, cuda};

/// The operands of a product that are transposed, each in its last two dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transpose {
    /// `a b`
    Neither,
    /// `a^T b`
    Left,
    /// `a b^T`
    Right,
    /// `a^T b^T`
    Both,
}

impl Transpose {
    fn of(left: bool, right: bool) -> Self {
        match (left, right) {
            (false, false) => Self::Neither,
            (true, false) => Self::Left,
            (false, true) => Self::Right,
            (true, true) => Self::Both,
        }
    }

    fn left(self) -> bool {
        matches!(self, Self::Left | Self::Both)
    }

    fn right(self) -> bool {
        matches!(self, Self::Right | Self::Both)
    }
}

/// Multiplies `a` and `b`, after the given transposes `[..., m, k]` and `[..., k, n]`, with equal
/// leading dimensions: `[..., m, n]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn batched_matmul(a: &Tensor, b: &Tensor, transpose: Transpose) -> Result<Tensor> {
    if is_narrow_on_cpu(a) {
        let products = Products::of(a.dtype());
        return widened([a, b], |[a, b]| {
            batched_matmul_in(products, a, b, transpose)
        });
    }
    batched_matmul_in(Products::F32, a, b, transpose)
}

/// Computes [`batched_matmul`] with the given products on the CPU.
fn batched_matmul_in(
    products: Products,
    a: &Tensor,
    b: &Tensor,
    transpose: Transpose,
) -> Result<Tensor> {
    let op = BatchedMatmul(transpose, products);
    if a.rank() > 2 && cpu::has_kernels(a) && cpu::has_kernels(b) {
        apply_op2(a, b, op)
    } else if a.rank() > 2 && cuda::has_kernels(a) && a.dtype() == b.dtype() {
        apply_op2(&a.contiguous()?, &b.contiguous()?, op)
    } else {
        batched_matmul_composed(a, b, transpose)
    }
}

/// Multiplies contiguous tensors outside any graph, and returns the storage to the caller.
pub(crate) fn product(a: &Tensor, b: &Tensor, transpose: Transpose) -> Result<(Storage, Shape)> {
    if is_narrow_on_cpu(a) {
        return copied(&batched_matmul(a, b, transpose)?);
    }
    computed2(a, b, &BatchedMatmul(transpose, Products::F32))
}

/// Computes [`batched_matmul`] by candle's product: the fallback for devices without a kernel, and
/// the reference in tests.
pub fn batched_matmul_composed(a: &Tensor, b: &Tensor, transpose: Transpose) -> Result<Tensor> {
    let operand = |x: &Tensor, transposed: bool| {
        if transposed {
            x.t()?.contiguous()
        } else {
            x.contiguous()
        }
    };
    operand(a, transpose.left())?.matmul(&operand(b, transpose.right())?)
}

struct BatchedMatmul(Transpose, Products);

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
        let lhs = Matrices::new(a, a_layout, self.0.left());
        let rhs = Matrices::new(b, b_layout, self.0.right());
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
                let rhs = Right::new(self.1, rhs.at(b));
                rhs.multiply_rows(lhs.at(a), None, output);
            });
        let shape = [lhs.batch, &[rows, columns]].concat();
        Ok((CpuStorage::F32(output), Shape::from(shape)))
    }

    /// Runs candle's product on the operands' strides: nothing is transposed, and neither are the
    /// gradients.
    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        a_layout: &Layout,
        b: &CudaStorage,
        b_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let operand = |layout: &Layout, transposed: bool| {
            let rank = layout.dims().len();
            if transposed {
                layout.transpose(rank - 2, rank - 1)
            } else {
                Ok(layout.clone())
            }
        };
        let lhs = operand(a_layout, self.0.left())?;
        let rhs = operand(b_layout, self.0.right())?;
        let (batch, matrix) = lhs.dims().split_at(lhs.dims().len() - 2);
        let (other_batch, other) = rhs.dims().split_at(rhs.dims().len() - 2);
        if batch != other_batch || matrix[1] != other[0] {
            let (a, b) = (a_layout.dims(), b_layout.dims());
            bail!("{}: shapes {a:?} and {b:?} do not fit", self.name());
        }
        let (m, k, n) = (matrix[0], matrix[1], other[1]);
        let count = batch.iter().product();
        let flat = |layout: &Layout| -> Result<Layout> {
            let (dims, stride) = (layout.dims(), layout.stride());
            let rank = dims.len();
            let shape = Shape::from((count, dims[rank - 2], dims[rank - 1]));
            let strides = vec![
                dims[rank - 2] * dims[rank - 1],
                stride[rank - 2],
                stride[rank - 1],
            ];
            Ok(Layout::new(shape, strides, layout.start_offset()))
        };
        let name = || match count {
            1 => format!("product {m}x{k}x{n}"),
            _ => format!("product {count} x {m}x{k}x{n}"),
        };
        let (lhs, rhs) = (flat(&lhs)?, flat(&rhs)?);
        let product = timed(a.device(), name, || {
            a.matmul(b, (count, m, n, k), &lhs, &rhs)
        })?;
        Ok((product, Shape::from([batch, &[m, n]].concat())))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = &grad.contiguous()?;
        let product = |lhs: &Tensor, rhs: &Tensor, left, right| {
            lhs.apply_op2_no_bwd(rhs, &Self(Transpose::of(left, right), self.1))
        };
        // dA = dy b^T and dB = a^T dy, where A and B are the operands as used in the product.
        let (left, right) = (self.0.left(), self.0.right());
        let da = if left {
            product(b, grad, right, true)?
        } else {
            product(grad, b, false, !right)?
        };
        let db = if right {
            product(grad, a, true, left)?
        } else {
            product(a, grad, !left, false)?
        };
        Ok((Some(da), Some(db)))
    }
}

/// A batch of matrices of one shape inside a buffer, each at its own offset.
struct Matrices<'a> {
    batch: &'a [usize],
    offsets: Vec<usize>,
    /// The matrix at offset 0.
    first: Matrix<'a>,
}

impl<'a> Matrices<'a> {
    /// Creates a view of a tensor of rank two or more as matrices.
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
    fn batched_matmul_matches_hand_computed_values() {
        // `[2, 1, 2]` times `[2, 2, 1]`.
        let a = Tensor::new(&[[[1f32, 2.0]], [[3.0, 4.0]]], &Device::Cpu).unwrap();
        let b = Tensor::new(&[[[1f32], [10.0]], [[100.0], [1000.0]]], &Device::Cpu).unwrap();
        let product = batched_matmul(&a, &b, Transpose::Neither).unwrap();
        assert_eq!(product.to_vec3::<f32>().unwrap(), [[[21.0]], [[4300.0]]]);
        let squares = batched_matmul(&a, &a, Transpose::Right).unwrap();
        assert_eq!(squares.to_vec3::<f32>().unwrap(), [[[5.0]], [[25.0]]]);
    }

    #[test]
    fn mismatched_shapes_are_rejected() {
        let a = Tensor::zeros((2, 3, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        let error = batched_matmul(&a, &a, Transpose::Neither)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("[2, 3, 4] and [2, 3, 4] do not fit"),
            "{error}"
        );
    }
}
