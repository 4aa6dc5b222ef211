//! Tensors that CUDA kernels write, outside any graph.

use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, Layout, Result, Shape, Storage, Tensor, bail};

/// A tensor's values on the GPU and their layout.
pub(crate) type Operand<'a> = (&'a CudaStorage, &'a Layout);

/// Computes a tensor from tensors on one GPU with `compute`.
///
/// # Errors
/// Those of `compute`, and when a tensor is on another device.
pub(crate) fn computed<const N: usize>(
    tensors: [&Tensor; N],
    compute: impl FnOnce([Operand; N]) -> Result<(CudaStorage, Shape)>,
) -> Result<Tensor> {
    let (storage, shape) = computed_alone(tensors, compute)?;
    Ok(Tensor::from_storage(
        storage,
        shape,
        BackpropOp::none(),
        false,
    ))
}

/// Computes as [`computed`] does, and returns the storage to the caller.
pub(crate) fn computed_alone<const N: usize>(
    tensors: [&Tensor; N],
    compute: impl FnOnce([Operand; N]) -> Result<(CudaStorage, Shape)>,
) -> Result<(Storage, Shape)> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut operands = Vec::with_capacity(N);
    for (storage, layout) in &guards {
        let Storage::Cuda(storage) = &**storage else {
            bail!("GPU kernel: expected tensors on the GPU, found one elsewhere");
        };
        operands.push((storage, *layout));
    }
    let Ok(operands) = <[Operand; N]>::try_from(operands) else {
        bail!("GPU kernel: expected {N} tensors");
    };
    let (storage, shape) = compute(operands)?;
    Ok((Storage::Cuda(storage), shape))
}
