//! One CUDA stream for all threads.

use candle_core::{CudaDevice, Device, Result};

use crate::cuda::memory::keep_memory;

/// Opens the GPU `ordinal`.
///
/// # Errors
/// When it does not exist, and when the driver refuses.
pub(crate) fn open(ordinal: usize) -> Result<Device> {
    let device = CudaDevice::new_with_stream(ordinal)?;
    // SAFETY: events order streams that use the same tensors, at several driver calls per use.
    // There is only one stream here, and everything runs in its order.
    #[allow(unsafe_code)]
    unsafe {
        device.disable_event_tracking();
    }
    keep_memory(&device)?;
    Ok(Device::Cuda(device))
}
