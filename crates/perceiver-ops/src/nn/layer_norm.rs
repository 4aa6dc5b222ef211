//! Layer normalization over the last dimension, with a backward pass.
//!
//! `y = (x - mean(x)) / sqrt(var(x) + epsilon) * gamma + beta` (Ba, Kiros and Hinton, "Layer
//! normalization", 2016; Keras's `LayerNormalization`). With `n = (x - mean) / sd` and
//! `g = dy * gamma`, the backward pass is `dx = (g - mean(g) - n * mean(g * n)) / sd`,
//! `dgamma = sum_rows(dy * n)`, `dbeta = sum_rows(dy)`.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use std::sync::{Mutex, PoisonError};

use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Storage, Tensor, bail};

use crate::autograd::recorded_ops::apply_op3;
use crate::cpu::floats::{Floats, are_floats, map, storage_like, with_floats};
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
    let on_cpu = are_floats([x, gamma, beta]);
    if is_narrow(x) && !on_gpu && !on_cpu {
        return widened([x, gamma, beta], |[x, gamma, beta]| {
            layer_norm(x, gamma, beta, epsilon)
        });
    }
    if on_gpu || on_cpu {
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
        let x = Floats::of(self.name(), x, x_layout)?;
        let gamma = Floats::of(self.name(), gamma, gamma_layout)?;
        let beta = Floats::of(self.name(), beta, beta_layout)?;
        let width = gamma.len();
        let mut buffers = [Vec::new(), Vec::new()];
        let [for_gamma, for_beta] = &mut buffers;
        let gamma = gamma.wide(0..width, for_gamma);
        let beta = beta.wide(0..width, for_beta);
        let output = map([x], width, |_, [x], output| {
            forward(x, gamma, beta, self.epsilon, output);
        });
        Ok((output, x_layout.shape().clone()))
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
        let [dx, dgamma, dbeta] = with_floats(self.name(), tensors, |[x, gamma, dy]| {
            gradients(x, gamma, dy, self.epsilon)
        })?;
        let tensor = |storage: CpuStorage, like: &Tensor| {
            let storage = Storage::Cpu(storage);
            Tensor::from_storage(storage, like.shape(), BackpropOp::none(), false)
        };
        Ok((
            Some(tensor(dx, x)),
            Some(tensor(dgamma, gamma)),
            Some(tensor(dbeta, gamma)),
        ))
    }
}

/// Computes the gradients of all three inputs.
fn gradients(x: Floats, gamma: Floats, dy: Floats, epsilon: f32) -> [CpuStorage; 3] {
    let width = gamma.len();
    let mut buffer = Vec::new();
    let wide_gamma = gamma.wide(0..width, &mut buffer);
    // One partial sum per task, summed in the order of the rows, whichever thread computed it.
    let partials: Mutex<Vec<(usize, [Vec<f32>; 2])>> = Mutex::new(Vec::new());
    let dx = map([x, dy], width, |first, [x, dy], dx| {
        let mut sums = [vec![0f32; width], vec![0f32; width]];
        let [dgamma, dbeta] = &mut sums;
        backward(x, wide_gamma, dy, epsilon, dx, dgamma, dbeta);
        let mut partials = partials.lock().unwrap_or_else(PoisonError::into_inner);
        partials.push((first, sums));
    });
    let mut partials = partials
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    partials.sort_unstable_by_key(|(first, _)| *first);
    let mut sums = [vec![0f32; width], vec![0f32; width]];
    for (_, partial) in &partials {
        for (sum, partial) in sums.iter_mut().zip(partial) {
            simd::add_to(sum, partial);
        }
    }
    let [dgamma, dbeta] = sums.map(|sums| storage_like(gamma, sums));
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
