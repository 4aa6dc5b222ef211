//! Ranks that are the processes of an MPI job, which `mpirun` has started.

use std::thread;

use candle_core::{Device, Tensor};
use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::environment::{Universe, initialize_with_threading, processor_name};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Equivalence, Root};
use perceiver_ops::change_values;

use crate::error::{Result, TrainError};
use crate::ranks::Ranks;

/// Numbers in one message: MPI counts them in 32 bits, and buffers of this size stay in the cache of a core.
const AT_ONCE: usize = 1 << 16;

/// The job that this process belongs to. Dropping it takes leave of the others, once all do.
pub struct MpiJob {
    _universe: Universe,
}

impl MpiJob {
    /// Joins the job, once a process.
    ///
    /// # Errors
    /// When MPI grants no calls from more than the first thread, or was joined before.
    pub fn join() -> Result<Self> {
        let failed = |finding: &str| TrainError::Ranks {
            rank: 0,
            size: 0,
            finding: finding.to_string(),
        };
        let joined = initialize_with_threading(Threading::Serialized);
        let (universe, threading) =
            joined.ok_or_else(|| failed("the process belongs to an MPI job already"))?;
        if threading < Threading::Serialized {
            return Err(failed("MPI cannot be called from one thread after another"));
        }
        Ok(Self {
            _universe: universe,
        })
    }

    /// The ranks of the job, of use while it is not dropped.
    pub fn ranks(&self) -> MpiRanks {
        MpiRanks(())
    }
}

/// The ranks of the MPI job that this process has joined.
#[derive(Clone, Debug)]
pub struct MpiRanks(());

/// All processes of the job.
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
    /// Ends the whole job at once, with this exit code.
    pub fn abort(&self, code: i32) -> ! {
        world().abort(code)
    }

    /// Waits for another rank to end the job.
    pub fn wait_for_the_end(&self) -> ! {
        loop {
            thread::park();
        }
    }
}

impl Ranks for MpiRanks {
    fn rank(&self) -> usize {
        usize::try_from(world().rank()).unwrap_or(0)
    }

    fn size(&self) -> usize {
        usize::try_from(world().size()).unwrap_or(1)
    }

    fn host(&self) -> String {
        processor_name().unwrap_or_else(|_| "a host without a name".to_string())
    }

    /// Of a tensor on a GPU, a copy in the host's memory is summed up.
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
        // MPI does not promise the same bits everywhere, and decisions are made by these.
        world().process_at_rank(0).broadcast_into(values);
        Ok(())
    }

    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<()> {
        let root = i32::try_from(root).map_err(|error| TrainError::Ranks {
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
