//! Exact GELU (Gaussian error linear unit), with a backward pass.
//!
//! `y = x * Phi(x)` with the normal distribution function `Phi(x) = (1 + erf(x / sqrt 2)) / 2`
//! (Hendrycks and Gimpel, "Gaussian error linear units", 2016; Keras's `gelu` with
//! `approximate=False`). Backward: `dx = dy * (Phi(x) + x * phi(x))` with the density
//! `phi(x) = exp(-x^2 / 2) / sqrt(2 pi)`.

use std::f32::consts::FRAC_1_SQRT_2;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use crate::autograd::recorded_ops::apply_op1;
use crate::cpu::floats::{Floats, are_floats, map};
use crate::cpu::simd::{self, vectorised};
use crate::cuda;

/// 1 / sqrt(2 pi)
const DENSITY_AT_ZERO: f32 = 0.398_942_3;

/// Computes GELU, `x * Phi(x)`, elementwise.
///
/// # Errors
/// When candle refuses an operation.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if are_floats([x]) || cuda::has_kernels(x) {
        apply_op1(&x.contiguous()?, Gelu)
    } else {
        gelu_composed(x)
    }
}

/// Computes [`gelu`] by candle's operation: the fallback for devices without a kernel, and the
/// reference in tests.
pub fn gelu_composed(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}

/// Computes the error function to within 2e-7: the quotient of an odd and an even polynomial on
/// [-4, 4], beyond which it is 1 or -1 to the same accuracy. The coefficients are those of Eigen
/// and XLA. Computed in `f64`, since rounding in `f32` raises the error to 4.5e-7. It has no
/// branches, so the compiler vectorizes it; `libm::erff` took a sixth of a training step.
#[inline(always)]
fn erf(x: f32) -> f32 {
    const ODD: [f64; 7] = [
        -2.726_142_258_013_06e-10,
        2.770_681_424_959_02e-8,
        -2.101_024_020_825_08e-6,
        -5.692_506_394_623_46e-5,
        -7.349_906_303_268_55e-4,
        -2.954_599_808_540_25e-3,
        -1.609_603_332_624_15e-2,
    ];
    const EVEN: [f64; 5] = [
        -1.456_607_184_649_96e-5,
        -2.133_740_552_789_05e-4,
        -1.682_826_974_382_03e-3,
        -7.373_329_167_204_68e-3,
        -1.426_473_905_141_89e-2,
    ];
    let x = f64::from(x).clamp(-4.0, 4.0);
    let square = x * x;
    let horner = |sum: f64, coefficient: &f64| sum * square + coefficient;
    (x * ODD.iter().fold(0.0, horner) / EVEN.iter().fold(0.0, horner)) as f32
}

vectorised! {
    fn forward(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * normal_distribution(x);
        }
    }

    fn backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for (dx, (&x, dy)) in dx.iter_mut().zip(x.iter().zip(dy)) {
            let density = DENSITY_AT_ZERO * simd::exp(-0.5 * x * x);
            *dx = dy * (normal_distribution(x) + x * density);
        }
    }
}

#[inline(always)]
fn normal_distribution(x: f32) -> f32 {
    0.5 * (1.0 + erf(x * FRAC_1_SQRT_2))
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = Floats::of(self.name(), storage, layout)?;
        let y = map([x], 1, |_, [x], y| forward(x, y));
        Ok((y, layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        cuda::map("gelu", [(x, layout)], &[])
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
        let x = Floats::of(self.name(), x, x_layout)?;
        let dy = Floats::of(self.name(), grad, grad_layout)?;
        let dx = map([x, dy], 1, |_, [x, dy], dx| backward(x, dy, dx));
        Ok((dx, x_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        grad: &CudaStorage,
        grad_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        cuda::map("gelu_backward", [(x, x_layout), (grad, grad_layout)], &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn erf_is_within_3e_7(x in -6f32..6.0) {
            let exact = libm::erf(f64::from(x));
            prop_assert!((f64::from(erf(x)) - exact).abs() < 3e-7, "erf({x}) is {exact}");
        }
    }

    #[test]
    fn erf_is_within_2e_7_on_a_fine_grid() {
        for step in -600_000..=600_000 {
            let x = step as f32 * 1e-5;
            let exact = libm::erf(f64::from(x));
            let distance = (f64::from(erf(x)) - exact).abs();
            assert!(distance < 2e-7, "erf({x}) is {exact}, {distance:e} away");
        }
    }

    #[test]
    fn known_values() {
        let x = Tensor::new(&[0f32, 1.0, -1.0, 20.0, -20.0], &Device::Cpu).unwrap();
        let y = gelu(&x).unwrap().to_vec1::<f32>().unwrap();
        let expected = [0.0, 0.841_344_7, -0.158_655_3, 20.0, 0.0];
        for (y, expected) in y.iter().zip(expected) {
            assert!((y - expected).abs() < 5e-6, "{y} is not {expected}");
        }
    }
}
