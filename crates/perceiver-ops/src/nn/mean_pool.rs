//! Mean pooling over tokens, with a backward pass.

use candle_core::{DType, Result, Tensor};

use crate::autograd::custom_function::{copied, with_backward};

/// Averages over tokens: `[batch, tokens, width] -> [batch, width]`. The sum is always in `f32`.
///
/// # Errors
/// When `x` does not have three dimensions.
pub fn mean_pool(x: &Tensor) -> Result<Tensor> {
    let (_, tokens, _) = x.dims3()?;
    let (shape, dtype) = (x.shape().clone(), x.dtype());
    let mean = x.detach().to_dtype(DType::F32)?.mean(1)?.to_dtype(dtype)?;
    with_backward([x, x, x], copied(&mean)?, move |grad| {
        let share = (grad.to_dtype(DType::F32)? * (1.0 / tokens as f64))?;
        let share = share.to_dtype(dtype)?.unsqueeze(1)?; // [batch, 1, width]
        Ok([Some(share.broadcast_as(&shape)?.contiguous()?), None, None])
    })
}
