//! Ranks with one GPU each: NCCL reduces tensors between GPUs, MPI does the rest.

use std::ffi::c_char;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Builder;

use candle_core::cuda_backend::cudarc::nccl::result::NcclError;
use candle_core::cuda_backend::cudarc::nccl::safe::{Comm, Id, ReduceOp};
use candle_core::{CpuStorage, CudaDevice, CudaStorage, InplaceOp1, Layout, Tensor, bail};

use crate::distributed::Communicator;
use crate::error::{Result, TrainError};

/// Ranks with one GPU each.
pub struct NcclRanks {
    /// The communicator that bootstraps NCCL and carries everything except tensors on GPUs.
    others: Arc<dyn Communicator>,
    requests: Sender<Request>,
}

/// A tensor to reduce, and the channel of the waiting caller.
struct Request {
    values: Tensor,
    done: Sender<candle_core::Result<()>>,
}

impl NcclRanks {
    /// Joins the GPUs of all `ranks`, each of which needs its own.
    ///
    /// # Errors
    /// When NCCL refuses, as it does if two ranks have the same GPU, or a rank has gone.
    pub fn join(ranks: Arc<dyn Communicator>, device: &CudaDevice) -> Result<Self> {
        let (rank, size) = (ranks.rank(), ranks.size());
        let failed = |finding: String| TrainError::Communicator {
            rank,
            size,
            finding,
        };
        let mut id = Vec::new();
        if ranks.is_first() {
            let new = Id::new().map_err(|error| failed(describe(&error)))?;
            id.extend(new.internal().map(|byte| byte.to_ne_bytes()[0]));
        }
        ranks.broadcast(0, &mut id)?;
        let id: [u8; 128] = id.try_into().map_err(|id: Vec<u8>| {
            failed(format!(
                "NCCL: expected an id of 128 bytes, found {}",
                id.len()
            ))
        })?;
        let id = Id::uninit(id.map(|byte| c_char::from_ne_bytes([byte])));

        let (requests, received) = channel();
        let (ready, joined) = channel();
        let device = device.clone();
        // An NCCL communicator may not leave its thread.
        let thread = Builder::new().name("nccl".to_string()).spawn(move || {
            // The device's only stream: the reduction runs after all work queued before it, and
            // before all that follows.
            match Comm::from_rank(device.cuda_stream(), rank, size, id) {
                Ok(communicator) => {
                    let _ = ready.send(Ok(())); // the caller is waiting
                    serve(&communicator, &received);
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
        thread.map_err(|error| failed(format!("cannot start the NCCL thread: {error}")))?;
        match joined.recv() {
            Ok(Ok(())) => Ok(Self {
                others: ranks,
                requests,
            }),
            Ok(Err(error)) => Err(failed(describe(&error))),
            Err(_) => Err(failed(
                "NCCL: the communication thread panicked".to_string(),
            )),
        }
    }
}

/// Reduces tensors until all senders are gone.
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
            Err(error) => bail!("{}", describe(&error)),
        }
    }
}

fn describe(error: &NcclError) -> String {
    format!("NCCL: {:?}", error.0)
}

impl Communicator for NcclRanks {
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
            _ => Err(TrainError::Communicator {
                rank: self.rank(),
                size: self.size(),
                finding: "NCCL: the communication thread panicked".to_string(),
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
