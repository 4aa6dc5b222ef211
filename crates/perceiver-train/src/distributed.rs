//! Data-parallel training: each process takes its part of every batch, and gradients are summed.
//!
//! ```
//! use perceiver_train::{Communicator, ranks_of_threads};
//!
//! let threads = ranks_of_threads(3).into_iter().map(|ranks| {
//!     std::thread::spawn(move || {
//!         let mut values = [1.0, ranks.rank() as f64];
//!         ranks.all_reduce_f64(&mut values).map(|()| values)
//!     })
//! });
//! for thread in threads.collect::<Vec<_>>() {
//!     assert_eq!(thread.join().unwrap()?, [3.0, 3.0]);
//! }
//! # Ok::<(), perceiver_train::TrainError>(())
//! ```

pub(crate) mod all_reduce;
pub(crate) mod consistency;
pub(crate) mod gradient_hook;
#[cfg(feature = "mpi")]
pub(crate) mod mpi;
#[cfg(feature = "nccl")]
pub(crate) mod nccl;
pub(crate) mod threads;

use std::sync::Arc;

use candle_core::{Device, Tensor};
use perceiver_data::Part;

use crate::error::Result;

/// One rank of a group of processes that train together.
///
/// All ranks have to call the same methods in the same order; a call returns when all ranks have
/// made it. Sums have the same bits on all ranks, so decisions based on them agree.
pub trait Communicator: Send + Sync {
    /// Returns the rank of this process, from 0. Rank 0 writes files and output.
    fn rank(&self) -> usize;

    /// Returns the number of ranks.
    fn size(&self) -> usize;

    /// Sums a contiguous f32 tensor over all ranks, in place. The tensor must not share its storage
    /// with another one.
    ///
    /// # Errors
    /// When a rank has gone or passes another number of values, or these ranks cannot access the
    /// tensor's device.
    fn all_reduce(&self, values: &Tensor) -> Result<()>;

    /// [`Communicator::all_reduce`] in f64, for a few numbers that have to be exact.
    ///
    /// # Errors
    /// As for [`Communicator::all_reduce`].
    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()>;

    /// Broadcasts the bytes of rank `root` to all ranks, in place.
    ///
    /// # Errors
    /// When a rank has gone.
    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<()>;

    /// Waits for all ranks.
    ///
    /// # Errors
    /// When a rank has gone.
    fn barrier(&self) -> Result<()>;

    /// Returns the host name of this rank, for messages.
    fn host(&self) -> String {
        "this machine".to_string()
    }

    /// Returns whether this is rank 0, which writes files and output.
    fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Returns this rank's part of divided work.
    fn part(&self) -> Part {
        Part {
            index: self.rank(),
            of: self.size(),
        }
    }
}

/// The communicator of a single process.
#[derive(Clone, Copy, Debug, Default)]
pub struct SingleProcess;

impl Communicator for SingleProcess {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_reduce(&self, _values: &Tensor) -> Result<()> {
        Ok(())
    }

    fn all_reduce_f64(&self, _values: &mut [f64]) -> Result<()> {
        Ok(())
    }

    fn broadcast(&self, _root: usize, _bytes: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        Ok(())
    }
}

/// The device and the ranks of a run. A device converts to the placement of a single process.
#[derive(Clone)]
pub struct Placement {
    /// The device of this process.
    pub device: Device,
    /// The ranks that train together. All of them need to see the run directory; only rank 0 writes
    /// there.
    pub ranks: Arc<dyn Communicator>,
}

impl From<Device> for Placement {
    fn from(device: Device) -> Self {
        let ranks = Arc::new(SingleProcess);
        Self { device, ranks }
    }
}
