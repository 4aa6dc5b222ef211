//! Attention logits (before softmax), computed only for inspection: the attention itself never
//! holds all of them at once.

use candle_core::{Result, Tensor};
use perceiver_ops::{AbsorbedWeights, Transpose, batched_matmul, split_heads};

/// Computes `q k^T` per head from `queries` `[batch, n, inner]` and `keys` `[batch, m, inner]`:
/// `[batch, heads, n, m]`.
pub(crate) fn logits(queries: &Tensor, keys: &Tensor, heads: usize) -> Result<Tensor> {
    batched_matmul(
        &split_heads(queries, heads)?,
        &split_heads(keys, heads)?,
        Transpose::Right,
    )
}

/// Computes the logits in absorbed form, where the `tokens` `[batch, m, token_width]` are the keys
/// of every head.
pub(crate) fn absorbed_logits(
    x: &Tensor,
    tokens: &Tensor,
    weights: &AbsorbedWeights,
    heads: usize,
) -> Result<Tensor> {
    let query = weights.query()?; // [width + 1, heads * token_width]
    let width = query.dim(0)? - 1;
    let (weight, bias) = (query.narrow(0, 0, width)?, query.get(width)?);
    let queries = x.broadcast_matmul(&weight)?.broadcast_add(&bias)?;
    let (batch, m, token_width) = tokens.dims3()?;
    let keys = tokens
        .unsqueeze(1)?
        .broadcast_as((batch, heads, m, token_width))?
        .contiguous()?;
    batched_matmul(&split_heads(&queries, heads)?, &keys, Transpose::Right)
}
