//! Tensors of 16 bits, as mixed precision has them between operations: what sums up, sums up in `f32`.
//!
//! Products of matrices are candle's where it has them for such a type, with sums in `f32` inside; on the CPU it has none for `bf16`, and
//! the values are widened for ours. Rounding to 16 bits is left to the result of an operation.

use candle_core::{DType, Result, Tensor};

use crate::noted::to_dtype;

/// Whether the values of a tensor have 16 bits.
pub(crate) fn is_narrow(tensor: &Tensor) -> bool {
    matches!(tensor.dtype(), DType::BF16 | DType::F16)
}

/// The same on a device without products of such values.
pub(crate) fn is_narrow_on_cpu(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && is_narrow(tensor)
}

/// What `compute` makes of the tensors in `f32`, rounded to the type of the first.
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
