//! Attention composed of whole-tensor products with a hand-written backward pass, for GPUs.
//!
//! candle adds every gradient to zeros, which takes four more passes through tensors as large as
//! the logits; here those never enter its graph. Logits are always `f32`, since rounding them to 16
//! bits alone changes a gradient by one percent; probabilities and gradients have the type of the
//! inputs.
//!
//! With `S = scale * q k^T`, `P = softmax(S)` and `D` the dropout mask, `y = (P * D) v`. Backward:
//! `dv = (P * D)^T dy`, `dP = D * (dy v^T)`, `dS = P * (dP - rows(P * dP))`, `dq = scale * dS k`,
//! `dk = scale * dS^T q`.

use candle_core::{DType, Result, Tensor};

use super::softmax_dropout::{Rows, softmax_dropout, softmax_dropout_backward};
use crate::autograd::custom_function::with_backward;
use crate::half_precision::is_narrow_on_cpu;
use crate::nn::matmul::product;
use crate::{Transpose, batched_matmul};

/// Computes attention of `queries` `[.., rows, width]` to `keys` `[.., m, width]` and `values`
/// `[.., m, value_width]`, per head or for all heads of an image at once:
/// `[.., rows, value_width]`.
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

/// A forward pass of attention with the values for its backward pass.
pub(crate) struct Core {
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    rows: Rows,
    logits: Tensor,        // f32, unscaled
    probabilities: Tensor, // after dropout
}

impl Core {
    /// Runs the forward pass on contiguous tensors outside any graph.
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

    /// Returns the attention output.
    pub(crate) fn read(&self) -> Result<Tensor> {
        batched_matmul(&self.probabilities, &self.values, Transpose::Neither)
    }

    /// Returns the number of query rows per image, or per head of an image.
    pub(crate) fn queries_per_image(&self) -> usize {
        let dims = self.queries.dims();
        dims[dims.len() - 2]
    }

    /// Computes the gradients of queries, keys and values from that of the output.
    pub(crate) fn backward(&self, grad: &Tensor) -> Result<[Tensor; 3]> {
        let values = batched_matmul(&self.probabilities, grad, Transpose::Left)?;
        let probabilities = batched_matmul(grad, &self.values, Transpose::Right)?;
        let logits = softmax_dropout_backward(&self.logits, &probabilities, self.rows)?;
        let queries = batched_matmul(&logits, &self.keys, Transpose::Neither)?;
        let keys = batched_matmul(&logits, &self.queries, Transpose::Left)?;
        Ok([queries, keys, values])
    }
}

/// Computes `queries keys^T` in `f32`.
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
