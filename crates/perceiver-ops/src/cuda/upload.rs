//! Copies from memory that stays in its place, which the GPU fetches by itself.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::PinnedHostSlice;
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Result, Storage, Tensor, bail};

/// Buffers that copies take turns in: while one is fetched, the next is filled.
const BUFFERS: usize = 3;

#[derive(Default)]
pub(crate) struct Pinned {
    buffers: [Option<PinnedHostSlice<f32>>; BUFFERS],
    turn: usize,
}

impl Pinned {
    /// The values of a contiguous `f32` tensor of the CPU, on the GPU.
    ///
    /// # Errors
    /// When it has no room.
    pub(crate) fn copy(&mut self, tensor: &Tensor, device: &CudaDevice) -> Result<Tensor> {
        let count = tensor.elem_count();
        let place = &mut self.buffers[self.turn];
        self.turn = (self.turn + 1) % BUFFERS;
        let buffer = match place.take() {
            Some(buffer) if buffer.len() >= count => place.insert(buffer),
            _ => {
                let context = device.cuda_stream().context().clone();
                // SAFETY: any bits are an `f32`, and what is read of the copy was written first.
                #[allow(unsafe_code)]
                let buffer = unsafe { context.alloc_pinned::<f32>(count) }.w()?;
                place.insert(buffer)
            }
        };
        {
            let (storage, layout) = tensor.storage_and_layout();
            let Storage::Cpu(storage) = &*storage else {
                bail!(
                    "upload: expected a tensor of the CPU, found one on {:?}",
                    tensor.device()
                );
            };
            let values = crate::cpu::values("upload", storage, layout)?;
            // Waits until what was here before has been fetched.
            buffer.as_mut_slice().w()?[..count].copy_from_slice(values);
        }
        // SAFETY: as above.
        #[allow(unsafe_code)]
        let mut there = unsafe { device.alloc::<f32>(buffer.len()) }?;
        device.cuda_stream().memcpy_htod(&*buffer, &mut there).w()?;
        let len = buffer.len();
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(there, device.clone()));
        let there = Tensor::from_storage(storage, len, BackpropOp::none(), false);
        there.narrow(0, 0, count)?.reshape(tensor.shape())
    }
}
