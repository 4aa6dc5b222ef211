//! The fully connected layer on bf16 tensors, on CPUs with instructions for bf16: products read
//! bf16, sum in `f32`, and round their results once.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor};
use half::bf16;
use rayon::prelude::*;

use super::{TASK_ROWS, task_rows, with_width};
use crate::cpu::floats::Floats;
use crate::cpu::gemm::{Sum, Target};
use crate::cpu::output::computed;
use crate::half_precision::{narrow, narrow_values, with_narrow_values};
use crate::matmul::kernel::Bf16Kernel;
use crate::matmul::operand::Operand;
use crate::matmul::packed_matrix::PackedMatrix;
use crate::matmul::transposed::Transposed;
use crate::matmul::unpacked::{Lhs, Product, RowMajor, multiply};
use crate::nn::broadcast::SumSlices;

/// Number of rows of the weight's gradient per task.
const TASK_OUTPUTS: usize = 64;

/// The layer for contiguous rows and biases; the weight may be in any order.
pub(super) struct LinearBf16(pub(super) Bf16Kernel);

impl CustomOp3 for LinearBf16 {
    fn name(&self) -> &'static str {
        "linear-bf16"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = narrow_values(self.name(), x, x_layout)?;
        let (outputs, inputs) = weight_layout.shape().dims2()?;
        let weight = Operand::of_tensor(weight, weight_layout)?.transposed();
        let weight = PackedMatrix::in_parallel(weight);
        let mut buffer = Vec::new();
        let bias = Floats::of(self.name(), bias, bias_layout)?.wide(0..outputs, &mut buffer);
        let output = self.rows(x, inputs, &weight, Some(bias));
        Ok((
            CpuStorage::BF16(output),
            with_width(x_layout.dims(), outputs),
        ))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.to_dtype(DType::BF16)?.contiguous()?;
        let (outputs, inputs) = weight.dims2()?;
        let dx = if x.track_op() {
            let packed = PackedMatrix::from_tensor(weight)?;
            let dx = with_narrow_values(self.name(), [&grad], |[grad]| {
                self.rows(grad, outputs, &packed, None)
            })?;
            Some(Tensor::from_vec(dx, x.shape(), x.device())?)
        } else {
            None
        };
        let dweight = with_narrow_values(self.name(), [x, &grad], |[x, grad]| {
            self.weight_gradient(x, grad, [inputs, outputs])
        })?;
        let dweight = Tensor::from_vec(dweight, weight.shape(), x.device())?;
        let dbias = grad.apply_op2_no_bwd(bias, &SumSlices)?;
        Ok((dx, Some(dweight), Some(dbias)))
    }
}

impl LinearBf16 {
    /// Multiplies rows of `width` values by a matrix and adds the bias, many rows in parallel.
    fn rows(
        &self,
        x: &[bf16],
        width: usize,
        matrix: &PackedMatrix,
        bias: Option<&[f32]>,
    ) -> Vec<bf16> {
        let columns = matrix.columns();
        let rows = x.len() / width.max(1);
        let task = task_rows(rows);
        computed(
            rows * columns,
            task * columns,
            || (),
            |(), number, values| {
                let rows = values.len() / columns;
                let x = &x[number * task * width..];
                let lhs = Lhs::Rows(RowMajor::new(x, rows, width));
                let product = Product::Bf16 {
                    values,
                    row_stride: columns,
                };
                multiply(self.0, product, lhs, matrix, 1.0, bias);
            },
        )
    }

    /// Computes `dy^T x`. A task sums some rows of the result, block of rows after block, so the
    /// order of the sum does not depend on threads.
    fn weight_gradient(
        &self,
        x: &[bf16],
        grad: &[bf16],
        [inputs, outputs]: [usize; 2],
    ) -> Vec<bf16> {
        let blocks: Vec<PackedMatrix> = x
            .par_chunks((TASK_ROWS * inputs).max(1))
            .map(|x| PackedMatrix::new(Operand::from(RowMajor::new(x, x.len() / inputs, inputs))))
            .collect();
        let mut dweight = vec![bf16::ZERO; outputs * inputs];
        dweight
            .par_chunks_mut((TASK_OUTPUTS * inputs).max(1))
            .enumerate()
            .for_each(|(number, dweight)| {
                let mut sums = vec![0f32; dweight.len()];
                let mut transposed = Transposed::new(self.0);
                for (grad, x) in grad.chunks(TASK_ROWS * outputs).zip(&blocks) {
                    let rows = RowMajor::new(grad, grad.len() / outputs, outputs);
                    let columns = rows.part(number * TASK_OUTPUTS, dweight.len() / inputs);
                    transposed.pack(columns);
                    let target = Target {
                        values: &mut sums,
                        row_stride: inputs,
                    };
                    let product = Product::F32(target, Sum::Add);
                    multiply(self.0, product, transposed.lhs(), x, 1.0, None);
                }
                narrow(&sums, dweight);
            });
        dweight
    }
}
