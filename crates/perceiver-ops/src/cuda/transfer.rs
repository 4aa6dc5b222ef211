//! Copies batches to the device.

#[cfg(feature = "cuda")]
pub(crate) mod pinned;

use candle_core::{Device, Result, Tensor};

/// Copies tensors from the CPU to a device. An NVIDIA GPU reads them from pinned memory, so the
/// calling thread and the GPU do not wait for each other, unless copies are requested faster than
/// they complete. A GPU used from several threads must come from [`open_cuda`](crate::open_cuda):
/// with any other, a copy is ordered only for the thread that made it.
pub struct Upload {
    device: Device,
    #[cfg(feature = "cuda")]
    pinned: crate::cuda::Pinned,
}

impl Upload {
    /// Creates an upload to `device`.
    pub fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            #[cfg(feature = "cuda")]
            pinned: crate::cuda::Pinned::default(),
        }
    }

    /// Copies a tensor to the device.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn copy(&mut self, tensor: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = &self.device
            && tensor.device().is_cpu()
            && tensor.dtype() == candle_core::DType::F32
            && tensor.elem_count() > 0
        {
            return self.pinned.copy(&tensor.contiguous()?, device);
        }
        tensor.to_device(&self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_arrive() {
        let mut upload = Upload::new(&Device::Cpu);
        let tensor = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let there = upload.copy(&tensor.t().unwrap()).unwrap();
        assert_eq!(there.to_vec2::<f32>().unwrap(), [[1.0, 3.0], [2.0, 4.0]]);
    }
}
