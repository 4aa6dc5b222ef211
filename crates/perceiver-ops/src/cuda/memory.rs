//! CUDA's memory pool.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{result, sys};
use candle_core::{CudaDevice, Result};
use sys::CUmemPool_attribute as Attribute;

/// Sets the memory pool to keep freed memory.
///
/// # Errors
/// When the driver refuses.
pub(super) fn keep_memory(device: &CudaDevice) -> Result<()> {
    let mut all = u64::MAX;
    with_pool(device, |pool| {
        let threshold = Attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the pool is the device's, and the attribute is 64 bits.
        #[allow(unsafe_code)]
        unsafe { result::mem_pool::set_attribute(pool, threshold, (&raw mut all).cast()) }.w()?;
        Ok(())
    })
    .map(|_| ())
}

/// Returns the peak memory in use in bytes, if the driver counts it.
///
/// # Errors
/// When the driver refuses.
pub(crate) fn peak_bytes(device: &CudaDevice) -> Result<Option<u64>> {
    with_pool(device, |pool| {
        let mut peak = 0u64;
        let attribute = Attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        // SAFETY: as above.
        #[allow(unsafe_code)]
        unsafe { result::mem_pool::get_attribute(pool, attribute, (&raw mut peak).cast()) }.w()?;
        Ok(peak)
    })
}

/// Calls `with` with the pool of tensor memory; returns `None` if the driver has no pools.
fn with_pool<R>(
    device: &CudaDevice,
    with: impl FnOnce(sys::CUmemoryPool) -> Result<R>,
) -> Result<Option<R>> {
    let stream = device.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        return Ok(None);
    }
    // SAFETY: the device is that of a live context.
    #[allow(unsafe_code)]
    let pool = unsafe { result::device::get_default_mem_pool(context.cu_device()) }.w()?;
    with(pool).map(Some)
}
