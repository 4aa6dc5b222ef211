//! Attention with fewer products: the projections of keys and values absorbed into those of queries and outputs.
//!
//! With tokens `x`, a head's logits are `(q(l)) (Wk x + bk)^T`. The part with `bk` is the same for all keys, so softmax does
//! not see it, and the rest is `(Wk^T q(l)) x`: queries of the tokens' width that meet the tokens themselves. Likewise
//! `Wo P (Wv x + bv)` is `(Wo Wv) (P x) + (Wo bv) sum(P)`, where the sum is 1 unless dropout took part of it. The products of
//! weights are made once a pass, not once an image; their gradients flow back to the four projections. It is the same
//! function, and cheaper where heads are wide: the eight heads of the Keras example are each as wide as the model.

use candle_core::{Result, Tensor};
use perceiver_ops::{batched_matmul, batched_matmul_transposed, join_heads, split_heads};

use crate::layers::Dense;

/// The two projections that remain.
#[derive(Debug, Clone)]
pub(crate) struct Absorbed {
    /// `[..., width] -> [..., heads * token_width]`: queries that meet the tokens.
    pub(crate) query: Dense,
    /// `[..., heads * token_width + heads] -> [..., width]`: of what the heads read, and the sums of their probabilities.
    pub(crate) output: Dense,
}

/// The projections of an attention as the parameters have them.
#[derive(Clone, Copy)]
pub(crate) struct Projections<'a> {
    pub(crate) heads: usize,
    pub(crate) query: &'a Dense,
    pub(crate) key: &'a Dense,
    pub(crate) value: &'a Dense,
    /// None where the heads' values, or rather the one head's, are the result.
    pub(crate) output: Option<&'a Dense>,
}

impl Absorbed {
    pub(crate) fn new(projections: Projections) -> Result<Self> {
        let (outputs, output_bias) = outputs(projections)?;
        Ok(Self {
            query: queries(projections)?,
            output: Dense {
                weight: outputs,
                bias: output_bias,
            },
        })
    }

    /// The same values outside any graph.
    pub(crate) fn detach(&self) -> Self {
        let detach = |dense: &Dense| Dense {
            weight: dense.weight.detach(),
            bias: dense.bias.detach(),
        };
        Self {
            query: detach(&self.query),
            output: detach(&self.output),
        }
    }
}

/// `Wk_h^T Wq_h` and `Wk_h^T bq_h` for every head.
fn queries(p: Projections) -> Result<Dense> {
    let heads = |x: &Tensor, width: usize| x.reshape((p.heads, (), width));
    let (inner, width) = p.query.weight.dims2()?;
    let token_width = p.key.weight.dim(1)?;
    let key = heads(&p.key.weight, token_width)?; // [heads, head_width, token_width]
    let query = heads(&p.query.weight, width)?; // [heads, head_width, width]
    let bias = p.query.bias.reshape((p.heads, inner / p.heads, 1))?;
    let rows = p.heads * token_width;
    let bias = batched_matmul_transposed(&key, &bias)?.reshape(rows)?;
    // The key's bias changes nothing. It stays in the graph all the same, so that its gradient is there, and zero: candle
    // prunes a product with 0.
    let sum = p.key.bias.sum_all()?;
    let nothing = sum.broadcast_sub(&sum)?;
    Ok(Dense {
        weight: batched_matmul_transposed(&key, &query)?.reshape((rows, width))?,
        bias: bias.broadcast_add(&nothing)?,
    })
}

/// `Wo_h Wv_h` side by side for all heads, then `Wo_h bv_h`; and the bias of the output.
fn outputs(p: Projections) -> Result<(Tensor, Tensor)> {
    let Some(output) = p.output else {
        let weight = Tensor::cat(&[&p.value.weight, &p.value.bias.unsqueeze(1)?], 1)?;
        return Ok((weight, p.value.bias.zeros_like()?));
    };
    let (inner, token_width) = p.value.weight.dims2()?;
    let head_width = inner / p.heads;
    let output_heads = split_heads(&output.weight.unsqueeze(0)?, p.heads)?; // [1, heads, width, head_width]
    let value = p
        .value
        .weight
        .reshape((1, p.heads, head_width, token_width))?;
    let bias = p.value.bias.reshape((1, p.heads, head_width, 1))?;
    let weight = join_heads(&batched_matmul(&output_heads, &value)?)?; // [1, width, heads * token_width]
    let sums = join_heads(&batched_matmul(&output_heads, &bias)?)?; // [1, width, heads]
    let weight = Tensor::cat(&[&weight.squeeze(0)?, &sums.squeeze(0)?], 1)?;
    Ok((weight, output.bias.clone()))
}
