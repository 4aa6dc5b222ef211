//! Ranks of an MPI job, as `mpirun` starts them.

use std::thread;

use candle_core::{Device, Tensor};
use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::environment::{Universe, initialize_with_threading, processor_name};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, CommunicatorCollectives, Equivalence, Root};
use perceiver_ops::change_values;

use crate::distributed::Communicator;
use crate::error::{Result, TrainError};

/// Values per message: MPI counts them in 32 bits, and buffers of this size stay in a core's cache.
const AT_ONCE: usize = 1 << 16;

/// The MPI job of this process. Dropping it finalizes MPI, which waits for all ranks to do the
/// same.
pub struct MpiJob {
    _universe: Universe,
}

impl MpiJob {
    /// Joins the job, once per process.
    ///
    /// # Errors
    /// When MPI only supports calls from the main thread, or the process has joined before.
    pub fn join() -> Result<Self> {
        let failed = |finding: &str| TrainError::Communicator {
            rank: 0,
            size: 0,
            finding: finding.to_string(),
        };
        let joined = initialize_with_threading(Threading::Serialized);
        let (universe, threading) =
            joined.ok_or_else(|| failed("this process has already joined an MPI job"))?;
        if threading < Threading::Serialized {
            return Err(failed(
                "the MPI library does not support MPI_THREAD_SERIALIZED",
            ));
        }
        Ok(Self {
            _universe: universe,
        })
    }

    /// Returns the ranks of the job. They are usable until the job is dropped.
    pub fn ranks(&self) -> MpiRanks {
        MpiRanks(())
    }
}

/// The ranks of the MPI job that this process has joined.
#[derive(Clone, Debug)]
pub struct MpiRanks(());

/// Returns the communicator of all processes of the job.
fn world() -> SimpleCommunicator {
    SimpleCommunicator::world()
}

fn all_reduce<T: Copy + Equivalence>(values: &mut [T]) {
    let mut sums = values[..values.len().min(AT_ONCE)].to_vec();
    for values in values.chunks_mut(AT_ONCE) {
        let sums = &mut sums[..values.len()];
        world().all_reduce_into(&*values, sums, SystemOperation::sum());
        values.copy_from_slice(sums);
    }
}

impl MpiRanks {
    /// Aborts the whole job with this exit code.
    pub fn abort(&self, code: i32) -> ! {
        world().abort(code)
    }

    /// Waits for another rank to abort the job.
    pub fn wait_for_the_end(&self) -> ! {
        loop {
            thread::park();
        }
    }
}

impl Communicator for MpiRanks {
    fn rank(&self) -> usize {
        usize::try_from(world().rank()).unwrap_or(0)
    }

    fn size(&self) -> usize {
        usize::try_from(world().size()).unwrap_or(1)
    }

    fn host(&self) -> String {
        processor_name().unwrap_or_else(|_| "an unnamed host".to_string())
    }

    /// Sums tensors on a GPU through a copy in host memory.
    fn all_reduce(&self, values: &Tensor) -> Result<()> {
        if !values.device().is_cpu() {
            let on_host = values.to_device(&Device::Cpu)?;
            self.all_reduce(&on_host)?;
            return Ok(values.slice_set(&on_host.to_device(values.device())?, 0, 0)?);
        }
        let change = change_values("all-reduce", values, |values| {
            all_reduce(values);
            Ok(())
        });
        Ok(change?)
    }

    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()> {
        all_reduce(values);
        // MPI does not guarantee the same bits on all ranks, and decisions depend on these values.
        world().process_at_rank(0).broadcast_into(values);
        Ok(())
    }

    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<()> {
        let root = i32::try_from(root).map_err(|error| TrainError::Communicator {
            rank: self.rank(),
            size: self.size(),
            finding: error.to_string(),
        })?;
        let (world, mut len) = (world(), bytes.len() as u64);
        let root = world.process_at_rank(root);
        root.broadcast_into(&mut len);
        bytes.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
        for bytes in bytes.chunks_mut(AT_ONCE) {
            root.broadcast_into(bytes);
        }
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        world().barrier();
        Ok(())
    }
}
