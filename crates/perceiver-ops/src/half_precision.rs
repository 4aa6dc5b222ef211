//! Half precision (f16, bf16) on the CPU: operations convert to f32 and back, and accumulate in
//! f32.
//!
//! Matrix products are candle's where it has them for such a type, with `f32` sums; on the CPU it
//! has none for `bf16`, so values are converted for ours. Only the result of an operation is
//! rounded to 16 bits.

use candle_core::{DType, Result, Tensor};

use crate::autograd::recorded_ops::to_dtype;

/// Returns whether the tensor has a 16-bit type.
pub(crate) fn is_narrow(tensor: &Tensor) -> bool {
    matches!(tensor.dtype(), DType::BF16 | DType::F16)
}

/// Returns whether the tensor has a 16-bit type on a device without products of that type.
pub(crate) fn is_narrow_on_cpu(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && is_narrow(tensor)
}

/// Calls `compute` with the tensors in `f32` and rounds the result to the type of the first.
pub(crate) fn widened<const N: usize>(
    tensors: [&Tensor; N],
    compute: impl FnOnce([&Tensor; N]) -> Result<Tensor>,
) -> Result<Tensor> {
    let wide: Vec<Tensor> = tensors
        .iter()
        .map(|tensor| to_dtype(tensor, DType::F32))
        .collect::<Result<_>>()?;
    let result = compute(std::array::from_fn(|at| &wide[at]))?;
    to_dtype(&result, tensors[0].dtype())
}
