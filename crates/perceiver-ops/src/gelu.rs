//! The exact Gaussian error linear unit, with a backward pass.
//!
//! `y = x * Phi(x)` with the normal distribution function `Phi(x) = (1 + erf(x / sqrt 2)) / 2` (Hendrycks and Gimpel,
//! "Gaussian error linear units", 2016; Keras's `gelu` with `approximate=False`). Backward:
//! `dx = dy * (Phi(x) + x * phi(x))` with the density `phi(x) = exp(-x^2 / 2) / sqrt(2 pi)`.

use std::f32::consts::FRAC_1_SQRT_2;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::cpu;

/// Values handed to one task at a time.
const TASK: usize = 16_384;

/// 1 / sqrt(2 pi)
const DENSITY_AT_ZERO: f32 = 0.398_942_3;

/// `x * Phi(x)`, elementwise.
///
/// # Errors
/// When candle refuses an operation.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if cpu::has_kernels(x) {
        x.contiguous()?.apply_op1(Gelu)
    } else {
        gelu_composed(x)
    }
}

/// [`gelu`] by candle's own operation: what every device runs that has no kernel, and what the kernel is tested
/// against.
pub fn gelu_composed(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}

fn normal_distribution(x: f32) -> f32 {
    0.5 * (1.0 + libm::erff(x * FRAC_1_SQRT_2))
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = cpu::values(self.name(), storage, layout)?;
        let y: Vec<f32> = x
            .par_iter()
            .with_min_len(TASK)
            .map(|&x| x * normal_distribution(x))
            .collect();
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _output: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        x.apply_op2_no_bwd(&grad.contiguous()?, &GeluBackward)
            .map(Some)
    }
}

struct GeluBackward;

impl CustomOp2 for GeluBackward {
    fn name(&self) -> &'static str {
        "gelu-backward"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = cpu::values(self.name(), x, x_layout)?;
        let dy = cpu::values(self.name(), grad, grad_layout)?;
        let dx: Vec<f32> = x
            .par_iter()
            .zip(dy)
            .with_min_len(TASK)
            .map(|(&x, &dy)| {
                let density = DENSITY_AT_ZERO * (-0.5 * x * x).exp();
                dy * (normal_distribution(x) + x * density)
            })
            .collect();
        Ok((CpuStorage::F32(dx), x_layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn known_values() {
        let x = Tensor::new(&[0f32, 1.0, -1.0, 20.0, -20.0], &Device::Cpu).unwrap();
        let y = gelu(&x).unwrap().to_vec1::<f32>().unwrap();
        for (y, expected) in y.iter().zip([0.0, 0.841_344_7, -0.158_655_3, 20.0, 0.0]) {
            assert!((y - expected).abs() < 1e-6, "{y} is not {expected}");
        }
    }
}
