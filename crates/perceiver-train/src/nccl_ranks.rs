//! Ranks with a GPU each, whose tensors NCCL sums from GPU to GPU; all else goes between the processes as without it.

use std::ffi::c_char;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Builder;

use candle_core::cuda_backend::cudarc::nccl::result::NcclError;
use candle_core::cuda_backend::cudarc::nccl::safe::{Comm, Id, ReduceOp};
use candle_core::{CpuStorage, CudaDevice, CudaStorage, InplaceOp1, Layout, Tensor, bail};

use crate::error::{Result, TrainError};
use crate::ranks::Ranks;

/// Ranks that each compute on a GPU of their own.
pub struct NcclRanks {
    /// How they find each other, and exchange what is no tensor on a GPU.
    others: Arc<dyn Ranks>,
    requests: Sender<Request>,
}

/// A tensor to sum up, and who waits for it.
struct Request {
    values: Tensor,
    done: Sender<candle_core::Result<()>>,
}

impl NcclRanks {
    /// Joins the GPUs of all `ranks`, each of which has to come with its own.
    ///
    /// # Errors
    /// When NCCL refuses, as it does where two ranks come with one GPU, or a rank has gone.
    pub fn join(ranks: Arc<dyn Ranks>, device: &CudaDevice) -> Result<Self> {
        let (rank, size) = (ranks.rank(), ranks.size());
        let failed = |finding: String| TrainError::Ranks {
            rank,
            size,
            finding,
        };
        let mut id = Vec::new();
        if ranks.is_first() {
            let new = Id::new().map_err(|error| failed(told(&error)))?;
            id.extend(new.internal().map(|byte| byte.to_ne_bytes()[0]));
        }
        ranks.broadcast(0, &mut id)?;
        let id: [u8; 128] = id
            .try_into()
            .map_err(|id: Vec<u8>| failed(format!("NCCL: an id of {} bytes", id.len())))?;
        let id = Id::uninit(id.map(|byte| c_char::from_ne_bytes([byte])));

        let (requests, received) = channel();
        let (ready, joined) = channel();
        let device = device.clone();
        // What NCCL calls a communicator may not leave its thread.
        let thread = Builder::new().name("nccl".to_string()).spawn(move || {
            // The device's only stream: a sum is taken after what was computed before it was asked for, and before all that follows.
            match Comm::from_rank(device.cuda_stream(), rank, size, id) {
                Ok(communicator) => {
                    let _ = ready.send(Ok(())); // who asked is waiting
                    serve(&communicator, &received);
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
        thread.map_err(|error| failed(format!("no thread for NCCL: {error}")))?;
        match joined.recv() {
            Ok(Ok(())) => Ok(Self {
                others: ranks,
                requests,
            }),
            Ok(Err(error)) => Err(failed(told(&error))),
            Err(_) => Err(failed("NCCL: its thread has panicked".to_string())),
        }
    }
}

/// Sums up tensors until nobody can ask any more.
fn serve(communicator: &Comm, requests: &Receiver<Request>) {
    for Request { values, done } in requests {
        let _ = done.send(values.inplace_op1(&AllReduce(communicator)));
    }
}

struct AllReduce<'a>(&'a Comm);

impl InplaceOp1 for AllReduce<'_> {
    fn name(&self) -> &'static str {
        "all-reduce"
    }

    fn cpu_fwd(&self, _values: &mut CpuStorage, _layout: &Layout) -> candle_core::Result<()> {
        bail!("NCCL: expected a tensor on a GPU, found one on the CPU")
    }

    fn cuda_fwd(&self, values: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("NCCL: expected a contiguous tensor, found one with {layout:?}")
        };
        let mut values = values.as_cuda_slice_mut::<f32>()?.slice_mut(start..end);
        match self.0.all_reduce_in_place(&mut values, &ReduceOp::Sum) {
            Ok(_) => Ok(()),
            Err(error) => bail!("{}", told(&error)),
        }
    }
}

fn told(error: &NcclError) -> String {
    format!("NCCL: {:?}", error.0)
}

impl Ranks for NcclRanks {
    fn rank(&self) -> usize {
        self.others.rank()
    }

    fn size(&self) -> usize {
        self.others.size()
    }

    fn host(&self) -> String {
        self.others.host()
    }

    fn all_reduce(&self, values: &Tensor) -> Result<()> {
        if !values.device().is_cuda() {
            return self.others.all_reduce(values);
        }
        let (done, answer) = channel();
        let request = Request {
            values: values.clone(),
            done,
        };
        let asked = self.requests.send(request).is_ok();
        match answer.recv() {
            Ok(done) if asked => Ok(done?),
            _ => Err(TrainError::Ranks {
                rank: self.rank(),
                size: self.size(),
                finding: "NCCL: its thread has panicked".to_string(),
            }),
        }
    }

    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()> {
        self.others.all_reduce_f64(values)
    }

    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<()> {
        self.others.broadcast(root, bytes)
    }

    fn barrier(&self) -> Result<()> {
        self.others.barrier()
    }
}
