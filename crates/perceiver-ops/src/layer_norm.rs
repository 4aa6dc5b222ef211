//! Layer normalization over the last dimension, with a backward pass.
//!
//! `y = (x - mean(x)) / sqrt(var(x) + epsilon) * gamma + beta` (Ba, Kiros and Hinton, "Layer normalization", 2016;
//! Keras's `LayerNormalization`). With `n = (x - mean) / sd` and `g = dy * gamma`, backward is
//! `dx = (g - mean(g) - n * mean(g * n)) / sd`, `dgamma = sum_rows(dy * n)`, `dbeta = sum_rows(dy)`.

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu;

/// Normalizes every row of `x` `[..., width]`, then scales by `gamma` `[width]` and shifts by `beta` `[width]`.
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
    if cpu::has_kernels(x) && cpu::has_kernels(gamma) && cpu::has_kernels(beta) {
        let op = LayerNorm {
            epsilon: epsilon as f32,
        };
        x.contiguous()?
            .apply_op3(&gamma.contiguous()?, &beta.contiguous()?, op)
    } else {
        layer_norm_composed(x, gamma, beta, epsilon)
    }
}

/// [`layer_norm`] as a composition of candle's own operations: what every device runs that has no kernel, and
/// what the kernel is tested against.
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
        let mut output = vec![0f32; x.len()];
        let task = (cpu::rows_per_task(width) * width).max(1);
        output
            .par_chunks_mut(task)
            .zip(x.par_chunks(task))
            .for_each(|(output, x)| {
                for (output, x) in output.chunks_mut(width).zip(x.chunks(width)) {
                    let (mean, scale) = moments(x, self.epsilon);
                    for (i, y) in output.iter_mut().enumerate() {
                        *y = (x[i] - mean) * scale * gamma[i] + beta[i];
                    }
                }
            });
        Ok((CpuStorage::F32(output), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        _beta: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let epsilon = self.epsilon;
        let dx = x.apply_op3_no_bwd(gamma, &grad, &InputGradient { epsilon })?;
        let sums = x.apply_op3_no_bwd(gamma, &grad, &ParameterGradients { epsilon })?; // [2, width]
        Ok((Some(dx), Some(sums.get(0)?), Some(sums.get(1)?)))
    }
}

/// Mean and reciprocal standard deviation of a row.
fn moments(row: &[f32], epsilon: f32) -> (f32, f32) {
    let count = row.len() as f32;
    let mean = row.iter().sum::<f32>() / count;
    let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / count;
    (mean, (variance + epsilon).sqrt().recip())
}

/// `(x, gamma, dy) -> dx`
struct InputGradient {
    epsilon: f32,
}

impl CustomOp3 for InputGradient {
    fn name(&self) -> &'static str {
        "layer-norm-input-gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gamma: &CpuStorage,
        gamma_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = cpu::values(self.name(), x, x_layout)?;
        let gamma = cpu::values(self.name(), gamma, gamma_layout)?;
        let dy = cpu::values(self.name(), grad, grad_layout)?;
        let width = gamma.len();
        let mut dx = vec![0f32; x.len()];
        let task = (cpu::rows_per_task(width) * width).max(1);
        dx.par_chunks_mut(task)
            .zip(x.par_chunks(task).zip(dy.par_chunks(task)))
            .for_each(|(dx, (x, dy))| {
                let rows = x.chunks(width).zip(dy.chunks(width));
                for (dx, (x, dy)) in dx.chunks_mut(width).zip(rows) {
                    input_gradient_row(x, gamma, dy, self.epsilon, dx);
                }
            });
        Ok((CpuStorage::F32(dx), x_layout.shape().clone()))
    }
}

fn input_gradient_row(x: &[f32], gamma: &[f32], dy: &[f32], epsilon: f32, dx: &mut [f32]) {
    let count = x.len() as f32;
    let (mean, scale) = moments(x, epsilon);
    let (mut sum_g, mut sum_gn) = (0f32, 0f32);
    for i in 0..x.len() {
        let g = dy[i] * gamma[i];
        sum_g += g;
        sum_gn += g * (x[i] - mean) * scale;
    }
    let (mean_g, mean_gn) = (sum_g / count, sum_gn / count);
    for i in 0..x.len() {
        let n = (x[i] - mean) * scale;
        dx[i] = (dy[i] * gamma[i] - mean_g - n * mean_gn) * scale;
    }
}

/// `(x, gamma, dy) -> [dgamma, dbeta]`, `[2, width]`
struct ParameterGradients {
    epsilon: f32,
}

impl CustomOp3 for ParameterGradients {
    fn name(&self) -> &'static str {
        "layer-norm-parameter-gradients"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gamma: &CpuStorage,
        gamma_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = cpu::values(self.name(), x, x_layout)?;
        let width = cpu::values(self.name(), gamma, gamma_layout)?.len();
        let dy = cpu::values(self.name(), grad, grad_layout)?;
        let task = (cpu::rows_per_task(width) * width).max(1);
        // One partial sum a task, added up in the order of the rows whatever thread made it.
        let partials: Vec<Vec<f32>> = x
            .par_chunks(task)
            .zip(dy.par_chunks(task))
            .map(|(x, dy)| partial_sums(x, dy, width, self.epsilon))
            .collect();
        let mut sums = vec![0f32; 2 * width];
        for partial in partials {
            for (sum, part) in sums.iter_mut().zip(partial) {
                *sum += part;
            }
        }
        Ok((CpuStorage::F32(sums), Shape::from((2, width))))
    }
}

fn partial_sums(x: &[f32], dy: &[f32], width: usize, epsilon: f32) -> Vec<f32> {
    let mut sums = vec![0f32; 2 * width];
    let (dgamma, dbeta) = sums.split_at_mut(width);
    for (x, dy) in x.chunks(width).zip(dy.chunks(width)) {
        let (mean, scale) = moments(x, epsilon);
        for i in 0..width {
            dgamma[i] += dy[i] * (x[i] - mean) * scale;
            dbeta[i] += dy[i];
        }
    }
    sums
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
    fn parameters_of_another_width_are_refused() {
        let x = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let gamma = Tensor::ones(4, candle_core::DType::F32, &Device::Cpu).unwrap();
        let error = layer_norm(&x, &gamma, &gamma, 1e-6).unwrap_err();
        assert!(error.to_string().contains("expected gamma and beta [3]"));
    }
}
