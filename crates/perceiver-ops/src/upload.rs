//! Batches on their way to a device, and the memory they come to lie in.

use candle_core::{Device, Result, Tensor};

/// Copies tensors of the CPU to a device. An NVIDIA GPU fetches them from memory that stays in its place, so that neither the calling
/// thread nor the GPU waits for the other, unless copies are asked for faster than they are made. A GPU that several threads use must be
/// one of [`open_cuda`](crate::open_cuda): with another, a copy is done in time for the thread that made it alone.
pub struct Upload {
    device: Device,
    #[cfg(feature = "cuda")]
    pinned: crate::cuda::Pinned,
}

impl Upload {
    /// To `device`.
    pub fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            #[cfg(feature = "cuda")]
            pinned: crate::cuda::Pinned::default(),
        }
    }

    /// The same values there.
    ///
    /// # Errors
    /// When the device has no room.
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
