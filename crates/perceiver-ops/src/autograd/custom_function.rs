//! Custom autograd functions: a result computed outside candle's graph, with a backward pass of its
//! own.

use std::sync::{Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, Layout, MetalStorage, Result, Shape, Storage, Tensor, bail,
};

use crate::autograd::recorded_ops::apply_op3;

/// A function from the output gradient to the optional gradients of three inputs.
type Backward = dyn Fn(&Tensor) -> Result<[Option<Tensor>; 3]> + Send + Sync;

/// Puts an output computed outside the graph into the graph, with its inputs and backward pass.
pub(crate) fn with_backward(
    of: [&Tensor; 3],
    (output, shape): (Storage, Shape),
    backward: impl Fn(&Tensor) -> Result<[Option<Tensor>; 3]> + Send + Sync + 'static,
) -> Result<Tensor> {
    let backward: Box<Backward> = Box::new(backward);
    let output = Mutex::new(Some((output, shape)));
    let [a, b, c] = of;
    apply_op3(a, b, c, Computed { output, backward })
}

/// Copies the values of a tensor.
pub(crate) fn copied(tensor: &Tensor) -> Result<(Storage, Shape)> {
    let layout = tensor.layout();
    let begins_its_storage = layout.is_contiguous() && layout.start_offset() == 0;
    let tensor = if begins_its_storage {
        tensor.clone()
    } else {
        tensor.force_contiguous()?
    };
    let (storage, layout) = tensor.storage_and_layout();
    let copy = match &*storage {
        Storage::Cpu(storage) => Storage::Cpu(storage.try_clone(layout)?),
        Storage::Cuda(storage) => Storage::Cuda(storage.try_clone(layout)?),
        Storage::Metal(storage) => Storage::Metal(storage.try_clone(layout)?),
    };
    Ok((copy, layout.shape().clone()))
}

struct Computed {
    /// Taken when the operation is applied.
    output: Mutex<Option<(Storage, Shape)>>,
    backward: Box<Backward>,
}

impl Computed {
    fn take<S>(&self, on_device: impl FnOnce(Storage) -> Option<S>) -> Result<(S, Shape)> {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((storage, shape)) = output.take() else {
            bail!("{}: expected to be applied once", self.name());
        };
        match on_device(storage) {
            Some(storage) => Ok((storage, shape)),
            None => bail!("{}: expected an output on the inputs' device", self.name()),
        }
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
        self.take(|storage| match storage {
            Storage::Cpu(storage) => Some(storage),
            _ => None,
        })
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
        self.take(|storage| match storage {
            Storage::Cuda(storage) => Some(storage),
            _ => None,
        })
    }

    fn metal_fwd(
        &self,
        _a: &MetalStorage,
        _a_layout: &Layout,
        _b: &MetalStorage,
        _b_layout: &Layout,
        _c: &MetalStorage,
        _c_layout: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        self.take(|storage| match storage {
            Storage::Metal(storage) => Some(storage),
            _ => None,
        })
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
