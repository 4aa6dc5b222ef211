//! Profiling of CUDA kernels: time by kernel, peak memory.

#[cfg(feature = "cuda")]
pub(crate) mod events;

use candle_core::{Device, Result};

/// The total time of a kernel or a matrix product.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelTime {
    /// Name in `kernels.cu`; `product MxKxN` for a product, with `batch x` before the sizes of a
    /// batch.
    pub name: String,
    /// Seconds on the GPU, all launches together.
    pub seconds: f64,
    /// Number of launches.
    pub launches: usize,
}

/// Measures the kernels and products that `work` launches through this crate, by the clock of an
/// NVIDIA GPU, sorted by name. Launches by candle itself are not included. On other devices the
/// result is empty.
///
/// # Errors
/// Those of `work`.
pub fn kernel_times(device: &Device, work: impl FnOnce() -> Result<()>) -> Result<Vec<KernelTime>> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return crate::cuda::profiler::events::kernel_times(device, work);
    }
    let _ = device;
    work()?;
    Ok(Vec::new())
}

/// Returns the peak tensor memory on an NVIDIA GPU since program start, in bytes; `None` for other
/// devices.
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
