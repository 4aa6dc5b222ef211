//! What the softmax of an attention is over, made only for those who look inside: the attention itself never holds all of it.

use candle_core::{Result, Tensor};
use perceiver_ops::{AbsorbedWeights, Transpose, batched_matmul, split_heads};

/// The products of `queries` `[batch, n, inner]` and `keys` `[batch, m, inner]`, head by head: `[batch, heads, n, m]`.
pub(crate) fn logits(queries: &Tensor, keys: &Tensor, heads: usize) -> Result<Tensor> {
    batched_matmul(
        &split_heads(queries, heads)?,
        &split_heads(keys, heads)?,
        Transpose::Right,
    )
}

/// The same in absorbed form, where every head's keys are the `tokens` `[batch, m, token_width]` themselves.
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
