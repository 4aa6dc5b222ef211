//! Attention as batched matrix products over all heads of an image.
//!
//! Rows of logits are ordered by query, then head, `[batch, queries * heads, keys]`, so heads are
//! split and joined without copies.

use candle_core::{Result, Tensor};

use crate::attention::dropout_mask::Mask;
use crate::attention::gpu;
use crate::attention::shape::Geometry;
use crate::attention::softmax_dropout::{Rows, softmax_composed};
use crate::autograd::recorded_ops::{reshape, transposed};
use crate::{Transpose, batched_matmul_composed, cuda};

/// Computes attention of `queries` `[batch, n, heads * width]` to `keys` and `values`, of validated
/// sizes: `[batch, n, heads * value_width]`.
pub(crate) fn read(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    g: Geometry,
    mask: Option<Mask>,
) -> Result<Tensor> {
    let by_head = g.kv_heads > 1;
    let rows = Rows { g, mask, by_head };
    let split = |x: &Tensor, length: usize| {
        let heads = reshape(x, (g.batch, length, g.heads, ()))?;
        transposed(&heads, 1, 2) // [batch, heads, length, width]
    };
    let outputs = (g.batch, g.queries, g.heads * g.value_width);
    if by_head {
        let [queries, keys, values] = [(queries, g.queries), (keys, g.keys), (values, g.keys)]
            .map(|(tensor, length)| split(tensor, length));
        let read = of_rows(&queries?, &keys?, &values?, rows)?;
        return reshape(&transposed(&read, 1, 2)?, outputs);
    }
    let queries = reshape(queries, (g.batch, g.queries * g.heads, g.width))?;
    reshape(&of_rows(&queries, keys, values, rows)?, outputs)
}

fn of_rows(queries: &Tensor, keys: &Tensor, values: &Tensor, rows: Rows) -> Result<Tensor> {
    if cuda::has_kernels(queries) {
        return gpu::attention(queries, keys, values, rows);
    }
    let logits = batched_matmul_composed(queries, keys, Transpose::Right)?;
    let probabilities = softmax_composed(&logits, rows)?;
    batched_matmul_composed(&probabilities, values, Transpose::Neither)
}
