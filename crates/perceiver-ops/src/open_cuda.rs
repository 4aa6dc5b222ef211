//! NVIDIA GPUs as this crate wants them.

use candle_core::{Device, Result};

/// Opens the NVIDIA GPU of this number, for every thread of the program: what is started there is done in the order in which it was
/// started, whichever threads did so. (`Device::new_cuda` gives every thread a stream of its own, so that one may read a tensor that
/// another's kernel is still writing to.) Memory that tensors have given back is kept for those to come, where the driver would else take it
/// away whenever the GPU is waited for.
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
