//! CPU kernels: access to the `f32` values of tensors.

pub(crate) mod finite;
pub(crate) mod floats;
pub(crate) mod gemm;
pub(crate) mod in_place;
pub(crate) mod output;
pub(crate) mod simd;
pub(crate) mod transpose;

use candle_core::{CpuStorage, DType, Layout, Result, Tensor, bail};
use rayon::prelude::*;

use floats::with_floats;

/// Returns whether the fused CPU kernels apply to `tensor`; otherwise the composed form does.
pub(crate) fn has_kernels(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && tensor.dtype() == DType::F32
}

/// Returns the values of a contiguous `f32` tensor.
///
/// # Errors
/// When the tensor has another type or is not contiguous; callers make theirs contiguous.
pub(crate) fn values<'a>(
    op: &'static str,
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<&'a [f32]> {
    let CpuStorage::F32(values) = storage else {
        bail!(
            "{op}: expected f32 values, found {:?}",
            storage_type(storage)
        );
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("{op}: expected contiguous values, found {layout:?}"),
    }
}

/// Returns [`values`] for in-place changes.
pub(crate) fn values_mut<'a>(
    op: &'static str,
    storage: &'a mut CpuStorage,
    layout: &Layout,
) -> Result<&'a mut [f32]> {
    let dtype = storage_type(storage);
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => bail!("{op}: expected contiguous f32 values, found {dtype:?} of {layout:?}"),
    }
}

/// Calls `compute` with the values of contiguous tensors: a backward pass gets tensors instead of
/// storages.
///
/// # Errors
/// As for [`values`], and when a tensor is not on the CPU.
pub(crate) fn with_values<const N: usize, R>(
    op: &'static str,
    tensors: [&Tensor; N],
    compute: impl FnOnce([&[f32]; N]) -> R,
) -> Result<R> {
    with_floats(op, tensors, |floats| {
        let mut slices = [&[][..]; N];
        for (slice, floats) in slices.iter_mut().zip(floats) {
            *slice = floats.f32s(op)?;
        }
        Ok(compute(slices))
    })?
}

fn storage_type(storage: &CpuStorage) -> DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}

/// Returns `count` zeros, written by all cores: for large buffers, that is a large part of the
/// work.
pub(crate) fn zeros(count: usize) -> Vec<f32> {
    let task = rows_per_task(1);
    if count <= task {
        return vec![0f32; count];
    }
    let zeros = (0..count).into_par_iter().with_min_len(task);
    zeros.map(|_| 0f32).collect()
}

/// Number of values per task: enough to outweigh the cost of a task, few enough to stay in a core's
/// cache.
pub(crate) const TASK: usize = 16_384;

/// Returns the number of rows of `width` values per task. It depends only on the shape, and
/// therefore so do partial sums.
pub(crate) fn rows_per_task(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}
