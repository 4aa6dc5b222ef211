//! Copies through pinned host memory, asynchronously.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaStream, DriverError, PinnedHostSlice, sys,
};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Result, Storage, Tensor, bail};

/// Number of buffers in rotation: while one is read, the next is filled.
const BUFFERS: usize = 3;

#[derive(Default)]
pub(crate) struct Pinned {
    buffers: [Option<Buffer>; BUFFERS],
    turn: usize,
}

impl Pinned {
    /// Copies a contiguous `f32` tensor from the CPU to the GPU.
    ///
    /// # Errors
    /// When the GPU is out of memory.
    pub(crate) fn copy(&mut self, tensor: &Tensor, device: &CudaDevice) -> Result<Tensor> {
        let count = tensor.elem_count();
        let stream = device.cuda_stream();
        let slot = &mut self.buffers[self.turn];
        self.turn = (self.turn + 1) % BUFFERS;
        let buffer = match slot.take() {
            Some(buffer) if buffer.values.len() >= count => slot.insert(buffer),
            _ => slot.insert(Buffer::new(&stream, count)?),
        };
        {
            let (storage, layout) = tensor.storage_and_layout();
            let Storage::Cpu(storage) = &*storage else {
                bail!(
                    "upload: expected a tensor on the CPU, found one on {:?}",
                    tensor.device()
                );
            };
            buffer.fill(crate::cpu::values("upload", storage, layout)?)?;
        }
        // SAFETY: the copy below writes all of it.
        #[allow(unsafe_code)]
        let mut there = unsafe { device.alloc::<f32>(buffer.values.len()) }?;
        stream.memcpy_htod(&buffer.values, &mut there).w()?;
        buffer.is_fetched_after(&stream)?;
        let len = buffer.values.len();
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(there, device.clone()));
        let there = Tensor::from_storage(storage, len, BackpropOp::none(), false);
        there.narrow(0, 0, count)?.reshape(tensor.shape())
    }
}

/// A pinned buffer, and the event after the GPU has read it.
struct Buffer {
    values: PinnedHostSlice<f32>,
    fetched: Option<CudaEvent>,
}

impl Buffer {
    fn new(stream: &CudaStream, len: usize) -> Result<Self> {
        // SAFETY: any bits are an `f32`, and what is read of the copy was written first.
        #[allow(unsafe_code)]
        let values = unsafe { stream.context().alloc_pinned::<f32>(len) }.w()?;
        let fetched = None;
        Ok(Self { values, fetched })
    }

    /// Copies `values` into the buffer after the GPU has read the previous ones.
    fn fill(&mut self, values: &[f32]) -> Result<()> {
        self.wait().w()?;
        self.values.as_mut_slice().w()?[..values.len()].copy_from_slice(values);
        Ok(())
    }

    /// Records that the work submitted to `stream` so far reads the values.
    fn is_fetched_after(&mut self, stream: &CudaStream) -> Result<()> {
        let kind = sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC; // waiting threads sleep
        self.fetched = Some(stream.record_event(Some(kind)).w()?);
        Ok(())
    }

    /// cudarc itself records the read of a buffer only with event tracking.
    fn wait(&self) -> std::result::Result<(), DriverError> {
        self.fetched.as_ref().map_or(Ok(()), CudaEvent::synchronize)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // The memory is freed next. After an error, the GPU reads nothing more.
        let _ = self.wait();
    }
}
