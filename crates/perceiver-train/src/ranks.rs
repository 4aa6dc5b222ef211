//! Several processes that train one model together: each takes its part of every batch, and what they find is summed up.
//!
//! ```
//! use perceiver_train::{Ranks, ranks_of_threads};
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

use std::sync::Arc;

use candle_core::{Device, Tensor};
use perceiver_data::Part;

use crate::error::Result;

/// One of the processes that train together, as it sees them all.
///
/// Each has to call the same methods in the same order; a call returns when all have made it. Sums come out with the same bits
/// everywhere, so that decisions made by them are the same.
pub trait Ranks: Send + Sync {
    /// Which of the processes this is, from 0. The first is the one that writes files and talks.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Puts the sum over all ranks in the place of every value of a contiguous f32 tensor, which shares its memory with no other.
    ///
    /// # Errors
    /// When a rank has gone or came with another number of values, or these ranks cannot reach the tensor's device.
    fn all_reduce(&self, values: &Tensor) -> Result<()>;

    /// [`Ranks::all_reduce`] for numbers that have to be exact, of which there are few.
    ///
    /// # Errors
    /// As for [`Ranks::all_reduce`].
    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()>;

    /// Puts the bytes of rank `root` in the place of everyone's.
    ///
    /// # Errors
    /// When a rank has gone.
    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<()>;

    /// Waits for all.
    ///
    /// # Errors
    /// When a rank has gone.
    fn barrier(&self) -> Result<()>;

    /// The machine this one runs on, for messages.
    fn host(&self) -> String {
        "this machine".to_string()
    }

    /// Whether this is the rank that writes files and talks.
    fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// This rank's part of what is shared out.
    fn part(&self) -> Part {
        Part {
            index: self.rank(),
            of: self.size(),
        }
    }
}

/// A single process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Ranks for Alone {
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

/// Where a run is computed, and with whom. A device alone is one without others.
#[derive(Clone)]
pub struct Workplace {
    /// Where this process computes.
    pub device: Device,
    /// The processes that train together. All of them see the run's directory; the first alone writes there.
    pub ranks: Arc<dyn Ranks>,
}

impl From<Device> for Workplace {
    fn from(device: Device) -> Self {
        let ranks = Arc::new(Alone);
        Self { device, ranks }
    }
}
