//! Layer normalization over the last dimension, with a backward pass.
//!
//! `y = (x - mean(x)) / sqrt(var(x) + epsilon) * gamma + beta` (Ba, Kiros and Hinton, "Layer
//! normalization", 2016; Keras's `LayerNormalization`). With `n = (x - mean) / sd` and
//! `g = dy * gamma`, the backward pass is `dx = (g - mean(g) - n * mean(g * n)) / sd`,
//! `dgamma = sum_rows(dy * n)`, `dbeta = sum_rows(dy)`.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::autograd::recorded_ops::apply_op3;
use crate::cpu;
use crate::cpu::simd::{self, vectorised};
use crate::cuda;
use crate::half_precision::{is_narrow, widened};

/// Normalizes every row of `x` `[..., width]`, then scales by `gamma` `[width]` and shifts by
/// `beta` `[width]`.
///
/// # Errors
/// When `gamma` or `beta` is not `[width]`.
pub fn layer_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, epsilon: f64) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    if gamma.dims() != [width] || beta.dims() != [width] {
        bail!(
            "layer norm of width {width}: expected gamma and beta [{width}], found {:?} and {:?}",
            gamma.dims(),
            beta.dims()
        );
    }
    let on_gpu = cuda::has_kernels(x) && x.dtype() == gamma.dtype() && x.dtype() == beta.dtype();
    if is_narrow(x) && !on_gpu {
        return widened([x, gamma, beta], |[x, gamma, beta]| {
            layer_norm(x, gamma, beta, epsilon)
        });
    }
    if on_gpu || (cpu::has_kernels(x) && cpu::has_kernels(gamma) && cpu::has_kernels(beta)) {
        let op = LayerNorm {
            epsilon: epsilon as f32,
        };
        apply_op3(
            &x.contiguous()?,
            &gamma.contiguous()?,
            &beta.contiguous()?,
            op,
        )
    } else {
        layer_norm_composed(x, gamma, beta, epsilon)
    }
}

/// Computes [`layer_norm`] by candle's operations: the fallback for devices without a kernel, and
/// the reference in tests.
pub fn layer_norm_composed(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    epsilon: f64,
) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normalized = centred.broadcast_div(&(variance + epsilon)?.sqrt()?)?;
    normalized.broadcast_mul(gamma)?.broadcast_add(beta)
}

struct LayerNorm {
    epsilon: f32,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gamma: &CpuStorage,
        gamma_layout: &Layout,
        beta: &CpuStorage,
        beta_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = cpu::values(self.name(), x, x_layout)?;
        let gamma = cpu::values(self.name(), gamma, gamma_layout)?;
        let beta = cpu::values(self.name(), beta, beta_layout)?;
        let width = gamma.len();
        let mut output = cpu::zeros(x.len());
        let task = (cpu::rows_per_task(width) * width).max(1);
        output
            .par_chunks_mut(task)
            .zip(x.par_chunks(task))
            .for_each(|(output, x)| forward(x, gamma, beta, self.epsilon, output));
        Ok((CpuStorage::F32(output), x_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        gamma: &CudaStorage,
        gamma_layout: &Layout,
        beta: &CudaStorage,
        beta_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let inputs = [(x, x_layout), (gamma, gamma_layout), (beta, beta_layout)];
        cuda::map_rows(
            "layer_norm",
            inputs,
            &cuda::layer_norm::numbers(gamma_layout, self.epsilon),
        )
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        _beta: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return cuda::layer_norm::gradients(x, gamma, &grad.contiguous()?, self.epsilon);
        }
        let tensors = [x, gamma, &grad.contiguous()?];
        let [dx, dgamma, dbeta] = cpu::with_values(self.name(), tensors, |[x, gamma, dy]| {
            gradients(x, gamma, dy, self.epsilon)
        })?;
        let tensor =
            |values: Vec<f32>, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
        Ok((
            Some(tensor(dx, x)?),
            Some(tensor(dgamma, gamma)?),
            Some(tensor(dbeta, gamma)?),
        ))
    }
}

/// Computes the gradients of all three inputs.
fn gradients(x: &[f32], gamma: &[f32], dy: &[f32], epsilon: f32) -> [Vec<f32>; 3] {
    let width = gamma.len();
    let mut dx = cpu::zeros(x.len());
    let task = (cpu::rows_per_task(width) * width).max(1);
    // One partial sum per task, summed in the order of the rows, whichever thread computed it.
    let partials: Vec<[Vec<f32>; 2]> = dx
        .par_chunks_mut(task)
        .zip(x.par_chunks(task).zip(dy.par_chunks(task)))
        .map(|(dx, (x, dy))| {
            let mut sums = [vec![0f32; width], vec![0f32; width]];
            let [dgamma, dbeta] = &mut sums;
            backward(x, gamma, dy, epsilon, dx, dgamma, dbeta);
            sums
        })
        .collect();
    let mut sums = [vec![0f32; width], vec![0f32; width]];
    for partial in &partials {
        for (sum, partial) in sums.iter_mut().zip(partial) {
            simd::add_to(sum, partial);
        }
    }
    let [dgamma, dbeta] = sums;
    [dx, dgamma, dbeta]
}

vectorised! {
    fn forward(x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32, output: &mut [f32]) {
        let width = gamma.len();
        for (output, x) in output.chunks_mut(width).zip(x.chunks(width)) {
            let (mean, scale) = moments(x, epsilon);
            for ((y, x), (gamma, beta)) in output.iter_mut().zip(x).zip(gamma.iter().zip(beta)) {
                *y = (x - mean) * scale * gamma + beta;
            }
        }
    }

    /// Computes `dx` of some rows, and their contribution to `dgamma` and `dbeta`.
    fn backward(
        x: &[f32],
        gamma: &[f32],
        dy: &[f32],
        epsilon: f32,
        dx: &mut [f32],
        dgamma: &mut [f32],
        dbeta: &mut [f32],
    ) {
        let width = gamma.len();
        let mut normalized = vec![0f32; width];
        let rows = x.chunks(width).zip(dy.chunks(width));
        for (dx, (x, dy)) in dx.chunks_mut(width).zip(rows) {
            let (mean, scale) = moments(x, epsilon);
            for (n, x) in normalized.iter_mut().zip(x) {
                *n = (x - mean) * scale;
            }
            for ((g, dy), gamma) in dx.iter_mut().zip(dy).zip(gamma) {
                *g = dy * gamma;
            }
            let mean_g = simd::sum(dx) / width as f32;
            let mean_gn = simd::dot(dx, &normalized) / width as f32;
            for (dx, n) in dx.iter_mut().zip(&normalized) {
                *dx = (*dx - mean_g - n * mean_gn) * scale;
            }
            let sums = dgamma.iter_mut().zip(dbeta.iter_mut());
            for ((dgamma, dbeta), (dy, n)) in sums.zip(dy.iter().zip(&normalized)) {
                *dgamma += dy * n;
                *dbeta += dy;
            }
        }
    }
}

/// Returns mean and reciprocal standard deviation of a row.
#[inline(always)]
fn moments(row: &[f32], epsilon: f32) -> (f32, f32) {
    let count = row.len() as f32;
    let mean = simd::sum(row) / count;
    let variance = simd::sum_of(row, |x| (x - mean) * (x - mean)) / count;
    (mean, (variance + epsilon).sqrt().recip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn rows_have_mean_zero_and_variance_one() {
        let x = Tensor::new(&[[1f32, 2.0, 3.0, 10.0]], &Device::Cpu).unwrap();
        let gamma = Tensor::ones(4, candle_core::DType::F32, &Device::Cpu).unwrap();
        let y = layer_norm(&x, &gamma, &gamma.zeros_like().unwrap(), 1e-6).unwrap();
        let row = &y.to_vec2::<f32>().unwrap()[0];
        assert!(row.iter().sum::<f32>().abs() < 1e-6);
        assert!((row.iter().map(|v| v * v).sum::<f32>() / 4.0 - 1.0).abs() < 1e-5);
    }

    #[test]
    fn mismatched_parameter_widths_are_rejected() {
        let x = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let gamma = Tensor::ones(4, candle_core::DType::F32, &Device::Cpu).unwrap();
        let error = layer_norm(&x, &gamma, &gamma, 1e-6).unwrap_err();
        assert!(error.to_string().contains("expected gamma and beta [3]"));
    }
}
