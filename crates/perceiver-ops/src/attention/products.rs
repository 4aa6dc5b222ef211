//! Attention by products of whole tensors, its backward pass written out: what NVIDIA's GPUs run.
//!
//! candle adds every gradient to zeros, and so goes four more times through tensors as large as the logits; here those never meet its graph.
//! Logits are `f32` at any precision, since in 16 bits their rounding alone takes a gradient a hundredth away; probabilities and gradients
//! have the type of the inputs.
//!
//! With `S = scale * q k^T`, `P = softmax(S)` and `D` the mask of dropout, `y = (P * D) v`. Backward: `dv = (P * D)^T dy`,
//! `dP = D * (dy v^T)`, `dS = P * (dP - rows(P * dP))`, `dq = scale * dS k`, `dk = scale * dS^T q`.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, DType, Layout, Result, Shape, Storage, Tensor, bail,
};

use super::rows::{Rows, softmax_dropout, softmax_dropout_backward};
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
    let (output, core) = Core::forward(&q, &k, &v, rows)?;
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
    ) -> Result<(Tensor, Self)> {
        let logits = wide_product(queries, keys)?; // [.., rows, m]
        let probabilities = softmax_dropout(&logits, rows, queries.dtype())?;
        let output = batched_matmul(&probabilities, values, Transpose::Neither)?;
        let [queries, keys, values] = [queries, keys, values].map(Tensor::clone);
        let core = Self {
            queries,
            keys,
            values,
            rows,
            logits,
            probabilities,
        };
        Ok((output, core))
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

/// The gradients of three tensors, where they have one, from that of what was computed of them.
type Backward = dyn Fn(&Tensor) -> Result<[Option<Tensor>; 3]> + Send + Sync;

/// A tensor that was computed of others outside the graph, in the graph.
pub(crate) fn with_backward(
    of: [&Tensor; 3],
    output: Tensor,
    backward: impl Fn(&Tensor) -> Result<[Option<Tensor>; 3]> + Send + Sync + 'static,
) -> Result<Tensor> {
    if !of.into_iter().any(Tensor::track_op) {
        return Ok(output);
    }
    let backward: Arc<Backward> = Arc::new(backward);
    let [a, b, c] = of;
    a.apply_op3(b, c, Computed { output, backward })
}

struct Computed {
    output: Tensor,
    backward: Arc<Backward>,
}

impl CustomOp3 for Computed {
    fn name(&self) -> &'static str {
        "computed"
    }

    fn cpu_fwd(
        &self,
        _a: &CpuStorage,
        _a_layout: &Layout,
        _b: &CpuStorage,
        _b_layout: &Layout,
        _c: &CpuStorage,
        _c_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (storage, layout) = self.output.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
            _ => bail!("{}: expected an output on the CPU", self.name()),
        }
    }

    fn cuda_fwd(
        &self,
        _a: &CudaStorage,
        _a_layout: &Layout,
        _b: &CudaStorage,
        _b_layout: &Layout,
        _c: &CudaStorage,
        _c_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (storage, layout) = self.output.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
            _ => bail!("{}: expected an output on the GPU", self.name()),
        }
    }

    fn bwd(
        &self,
        _a: &Tensor,
        _b: &Tensor,
        _c: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [a, b, c] = (self.backward)(&grad.detach().contiguous()?)?;
        Ok((a, b, c))
    }
}
