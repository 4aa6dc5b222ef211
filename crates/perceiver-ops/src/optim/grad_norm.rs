//! The sum of squares of a tensor, for gradient norms, in an order that its size fixes.

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use crate::cpu::simd::{self, vectorised};
use crate::cpu::{self, TASK};

/// Computes the sum of squares of all values.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let x = Tensor::new(&[[3f32, 0.0], [0.0, 4.0]], &Device::Cpu)?;
/// assert_eq!(perceiver_ops::sum_of_squares(&x)?, 25.0);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When candle refuses an operation.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    if !cpu::has_kernels(x) {
        let sum = x.detach().sqr()?.to_dtype(DType::F32)?.sum_all()?;
        return Ok(f64::from(sum.to_scalar::<f32>()?));
    }
    let contiguous = x.contiguous()?;
    cpu::with_values("sum-of-squares", [&contiguous], |[values]| {
        let sums: Vec<f64> = values.par_chunks(TASK).map(squares).collect();
        sums.iter().sum()
    })
}

vectorised! {
    /// Computes the sum of squares of one task's values. Lanes of `f32` lose little over so few
    /// values.
    pub(crate) fn squares(values: &[f32]) -> f64 {
        f64::from(simd::dot(values, values))
    }
}
