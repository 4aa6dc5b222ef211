//! Attention by products of whole tensors, its backward pass written out: what NVIDIA's GPUs run.
//!
//! candle adds every gradient to zeros, and so goes four more times through tensors as large as the logits; here those never meet its graph.
//! Logits are `f32` at any precision, since in 16 bits their rounding alone takes a gradient a hundredth away; probabilities and gradients
//! have the type of the inputs.
//!
//! With `S = scale * q k^T`, `P = softmax(S)` and `D` the mask of dropout, `y = (P * D) v`. Backward: `dv = (P * D)^T dy`,
//! `dP = D * (dy v^T)`, `dS = P * (dP - rows(P * dP))`, `dq = scale * dS k`, `dk = scale * dS^T q`.

use candle_core::{DType, Result, Tensor};

use super::rows::{Rows, softmax_dropout, softmax_dropout_backward};
use crate::in_graph::with_backward;
use crate::matmul::product;
use crate::narrow::is_narrow_on_cpu;
use crate::{Transpose, batched_matmul};

/// What `queries` `[.., rows, width]` read by `keys` `[.., m, width]` from `values` `[.., m, value_width]`, head by head or all heads of an
/// image at once: `[.., rows, value_width]`.
pub(crate) fn attention(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    rows: Rows,
) -> Result<Tensor> {
    let tensors = [queries, keys, values];
    let [q, k, v] = tensors.map(|tensor| tensor.detach().contiguous());
    let (q, k, v) = (q?, k?, v?);
    let core = Core::forward(&q, &k, &v, rows)?;
    let output = product(&core.probabilities, &core.values, Transpose::Neither)?;
    with_backward(tensors, output, move |grad| {
        core.backward(grad).map(|gradients| gradients.map(Some))
    })
}

/// An attention that has been computed, and what its backward pass needs.
pub(crate) struct Core {
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    rows: Rows,
    logits: Tensor,        // f32, without their factor
    probabilities: Tensor, // after dropout
}

impl Core {
    /// Of contiguous tensors outside any graph.
    pub(crate) fn forward(
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        rows: Rows,
    ) -> Result<Self> {
        let logits = wide_product(queries, keys)?; // [.., rows, m]
        let probabilities = softmax_dropout(&logits, rows, queries.dtype())?;
        let [queries, keys, values] = [queries, keys, values].map(Tensor::clone);
        Ok(Self {
            queries,
            keys,
            values,
            rows,
            logits,
            probabilities,
        })
    }

    /// What is read.
    pub(crate) fn read(&self) -> Result<Tensor> {
        batched_matmul(&self.probabilities, &self.values, Transpose::Neither)
    }

    /// Rows of queries in an image, or in one of its heads.
    pub(crate) fn queries_per_image(&self) -> usize {
        let dims = self.queries.dims();
        dims[dims.len() - 2]
    }

    /// The gradients of queries, keys and values, from that of the output.
    pub(crate) fn backward(&self, grad: &Tensor) -> Result<[Tensor; 3]> {
        let values = batched_matmul(&self.probabilities, grad, Transpose::Left)?;
        let probabilities = batched_matmul(grad, &self.values, Transpose::Right)?;
        let logits = softmax_dropout_backward(&self.logits, &probabilities, self.rows)?;
        let queries = batched_matmul(&logits, &self.keys, Transpose::Neither)?;
        let keys = batched_matmul(&logits, &self.queries, Transpose::Left)?;
        Ok([queries, keys, values])
    }
}

/// `queries keys^T` in `f32`.
fn wide_product(queries: &Tensor, keys: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if crate::cuda::has_kernels(queries) && queries.dtype() == DType::BF16 {
        return crate::cuda::wide_product(queries, keys);
    }
    if is_narrow_on_cpu(queries) {
        let wide = |tensor: &Tensor| tensor.to_dtype(DType::F32);
        return batched_matmul(&wide(queries)?, &wide(keys)?, Transpose::Right);
    }
    batched_matmul(queries, keys, Transpose::Right)
}
