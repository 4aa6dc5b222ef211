//! What was computed outside candle's graph, put into it with a backward pass of its own.

use std::sync::{Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, Error, Layout, Result, Shape, Storage, Tensor, bail,
};

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
    let backward: Box<Backward> = Box::new(backward);
    let output = Mutex::new(Some(output));
    let [a, b, c] = of;
    a.apply_op3(b, c, Computed { output, backward })
}

struct Computed {
    /// Copied once, when the operation is applied.
    output: Mutex<Option<Tensor>>,
    backward: Box<Backward>,
}

impl Computed {
    fn output(&self) -> Result<Tensor> {
        let output = self
            .output
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        output.ok_or_else(|| Error::Msg("computed: expected to be applied once".to_string()))
    }
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
        let output = self.output()?;
        let (storage, layout) = output.storage_and_layout();
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
        let output = self.output()?;
        let (storage, layout) = output.storage_and_layout();
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
