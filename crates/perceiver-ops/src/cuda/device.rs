//! Opens CUDA devices.

#[cfg(feature = "cuda")]
pub(crate) mod open;

use candle_core::{Device, Result};

/// Opens the NVIDIA GPU `ordinal` with one stream for all threads: work runs in the order of its
/// submission, from any thread. (`Device::new_cuda` gives every thread its own stream, so a thread
/// may read a tensor that another's kernel is still writing.) Freed memory stays in the pool; by
/// default the driver releases it at every synchronization.
///
/// # Errors
/// Without the feature `cuda`, and when there is no such GPU.
pub fn open_cuda(ordinal: usize) -> Result<Device> {
    #[cfg(feature = "cuda")]
    {
        crate::cuda::open(ordinal)
    }
    #[cfg(not(feature = "cuda"))]
    {
        Device::new_cuda(ordinal)
    }
}
