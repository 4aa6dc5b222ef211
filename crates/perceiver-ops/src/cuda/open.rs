//! One stream for all threads.

use candle_core::{CudaDevice, Device, Result};

use super::memory::keep_memory;

/// Opens the GPU of this number.
///
/// # Errors
/// When it is not there, and when the driver refuses.
pub(crate) fn open(ordinal: usize) -> Result<Device> {
    let device = CudaDevice::new_with_stream(ordinal)?;
    // SAFETY: events keep streams apart that use the same tensors, at several calls of the driver for each use. There is one stream here, in
    // whose order everything is done.
    #[allow(unsafe_code)]
    unsafe {
        device.disable_event_tracking();
    }
    keep_memory(&device)?;
    Ok(Device::Cuda(device))
}
