//! Softmax over the last dimension, with a backward pass.
//!
//! `y_i = exp(x_i - max x) / sum_j exp(x_j - max x)`, backward `dx = y * (dy - sum_j dy_j y_j)`.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::autograd::recorded_ops::apply_op1;
use crate::cpu;
use crate::cpu::simd::{self, vectorised};
use crate::cuda;
use crate::half_precision::{is_narrow, widened};

/// Computes the softmax over the last dimension: `[..., n] -> [..., n]`, where every row sums to 1.
///
/// # Errors
/// When candle refuses an operation, as for a scalar.
pub fn softmax(logits: &Tensor) -> Result<Tensor> {
    logits.dim(D::Minus1)?;
    if is_narrow(logits) && !cuda::has_kernels(logits) {
        return widened([logits], |[logits]| softmax(logits));
    }
    if cpu::has_kernels(logits) || cuda::has_kernels(logits) {
        apply_op1(&logits.contiguous()?, Softmax)
    } else {
        softmax_composed(logits)
    }
}

/// Computes [`softmax`] by candle's operations: the fallback for devices without a kernel, and the
/// reference in tests.
pub fn softmax_composed(logits: &Tensor) -> Result<Tensor> {
    if is_narrow(logits) {
        return widened([logits], |[logits]| softmax_composed(logits));
    }
    // The shift changes no value, so no gradient flows through it.
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let exp = logits.broadcast_sub(&max)?.exp()?;
    let sum = exp.sum_keepdim(D::Minus1)?;
    exp.broadcast_div(&sum)
}

#[cfg(feature = "cuda")]
fn width_of(layout: &Layout) -> cuda::Number {
    cuda::Number::Whole(layout.dims()[layout.dims().len() - 1] as u64)
}

struct Softmax;

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let logits = cpu::values(self.name(), storage, layout)?;
        let width = layout.dims()[layout.dims().len() - 1];
        let mut output = vec![0f32; logits.len()];
        let task = cpu::rows_per_task(width) * width;
        output
            .par_chunks_mut(task.max(1))
            .zip(logits.par_chunks(task.max(1)))
            .for_each(|(output, logits)| forward(width, logits, output));
        Ok((CpuStorage::F32(output), layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, logits: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        cuda::map_rows("softmax", [(logits, layout)], &[width_of(layout)])
    }

    fn bwd(&self, _logits: &Tensor, output: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        output.apply_op2_no_bwd(&grad, &SoftmaxBackward).map(Some)
    }
}

vectorised! {
    /// Computes softmax of rows of `width` values.
    fn forward(width: usize, logits: &[f32], output: &mut [f32]) {
        for (output, logits) in output.chunks_mut(width).zip(logits.chunks(width)) {
            let max = simd::max(logits);
            for (y, x) in output.iter_mut().zip(logits) {
                *y = simd::exp(x - max);
            }
            let sum = simd::sum(output);
            simd::scale(output, sum.recip());
        }
    }

    /// Computes the gradient for rows of `width` values.
    fn backward(width: usize, y: &[f32], dy: &[f32], dx: &mut [f32]) {
        let rows = dx.chunks_mut(width).zip(y.chunks(width).zip(dy.chunks(width)));
        for (dx, (y, dy)) in rows {
            let dot = simd::dot(y, dy);
            for (dx, (y, dy)) in dx.iter_mut().zip(y.iter().zip(dy)) {
                *dx = y * (dy - dot);
            }
        }
    }
}

struct SoftmaxBackward;

impl CustomOp2 for SoftmaxBackward {
    fn name(&self) -> &'static str {
        "softmax-backward"
    }

    fn cpu_fwd(
        &self,
        output: &CpuStorage,
        output_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = cpu::values(self.name(), output, output_layout)?;
        let dy = cpu::values(self.name(), grad, grad_layout)?;
        let width = output_layout.dims()[output_layout.dims().len() - 1];
        let mut dx = vec![0f32; y.len()];
        let task = (cpu::rows_per_task(width) * width).max(1);
        dx.par_chunks_mut(task)
            .zip(y.par_chunks(task).zip(dy.par_chunks(task)))
            .for_each(|(dx, (y, dy))| backward(width, y, dy, dx));
        Ok((CpuStorage::F32(dx), output_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        output: &CudaStorage,
        output_layout: &Layout,
        grad: &CudaStorage,
        grad_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let inputs = [(output, output_layout), (grad, grad_layout)];
        cuda::map_rows("softmax_backward", inputs, &[width_of(output_layout)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn huge_logits_do_not_overflow() {
        let logits = Tensor::new(&[[1e30f32, -1e30, 1e30]], &Device::Cpu).unwrap();
        let probabilities = softmax(&logits).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(probabilities, [[0.5, 0.0, 0.5]]);
    }

    #[test]
    fn strided_inputs_are_supported() {
        let logits = Tensor::new(&[[0f32, 1.0], [2.0, 5.0]], &Device::Cpu).unwrap();
        let transposed = logits.t().unwrap();
        let expected = softmax(&transposed.contiguous().unwrap()).unwrap();
        let actual = softmax(&transposed).unwrap();
        assert_eq!(
            actual.to_vec2::<f32>().unwrap(),
            expected.to_vec2::<f32>().unwrap()
        );
    }

    #[test]
    fn row_gradients_sum_to_zero() {
        // Adding a constant to a row changes nothing, so the gradient along it is zero.
        let logits = Var::new(&[[0.3f32, -2.0, 1.5, 0.0]], &Device::Cpu).unwrap();
        let weights = Tensor::new(&[[1f32, -3.0, 2.0, 7.0]], &Device::Cpu).unwrap();
        let loss = (softmax(&logits).unwrap() * weights).unwrap();
        let gradients = loss.sum_all().unwrap().backward().unwrap();
        let gradient = gradients.get(&logits).unwrap().to_vec2::<f32>().unwrap();
        assert!(gradient[0].iter().sum::<f32>().abs() < 1e-6);
        assert!(gradient[0].iter().any(|g| g.abs() > 0.1));
    }
}
