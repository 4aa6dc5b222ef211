//! Where the time of a GPU goes.

use candle_core::{Device, Result};

/// A kernel or a product of matrices, and the time it took in all.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelTime {
    /// What `kernels.cu` calls it; `product MxKxN` for a product, `batch x` before the sizes where there are several.
    pub name: String,
    /// Seconds on the GPU, all launches together.
    pub seconds: f64,
    /// How often it was started.
    pub launches: usize,
}

/// The times, by an NVIDIA GPU's own clock, of the kernels and products that `work` starts by way of this crate, sorted by name. What candle
/// starts by itself is not among them. On other devices none are noted.
///
/// # Errors
/// Those of `work`.
pub fn kernel_times(device: &Device, work: impl FnOnce() -> Result<()>) -> Result<Vec<KernelTime>> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return crate::cuda::profile::kernel_times(device, work);
    }
    let _ = device;
    work()?;
    Ok(Vec::new())
}

/// The most memory that tensors on an NVIDIA GPU had at once since the program's start, in bytes; none of other devices.
///
/// # Errors
/// When the driver refuses.
pub fn peak_device_bytes(device: &Device) -> Result<Option<u64>> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return crate::cuda::peak_bytes(device);
    }
    let _ = device;
    Ok(None)
}
