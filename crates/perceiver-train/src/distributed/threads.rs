//! Ranks as threads of one process, for tests.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use candle_core::{Error, Tensor};
use perceiver_ops::change_values;

use crate::distributed::Communicator;
use crate::error::{Result, TrainError};

/// Creates `size` ranks, one for each of the threads that train together. Dropping one fails the
/// calls of those that still wait for it.
///
/// For tests: `training.parallel_micro_batches` is the way to use all cores in one process.
pub fn ranks_of_threads(size: usize) -> Vec<ThreadRanks> {
    let meeting = Arc::new(Meeting {
        state: Mutex::new(State {
            brought: vec![None; size],
            shared: Arc::default(),
            meetings: 0,
            left: None,
        }),
        changed: Condvar::new(),
    });
    let rank = |rank| ThreadRanks {
        rank,
        size,
        meeting: Arc::clone(&meeting),
    };
    (0..size).map(rank).collect()
}

/// A rank made by [`ranks_of_threads`].
pub struct ThreadRanks {
    rank: usize,
    size: usize,
    meeting: Arc<Meeting>,
}

/// The meeting point: all ranks bring data, and leave when everything is there.
struct Meeting {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    brought: Vec<Option<Vec<u8>>>,
    /// The data of the last meeting, by rank.
    shared: Arc<Vec<Vec<u8>>>,
    meetings: u64,
    /// The first rank that has left for good.
    left: Option<usize>,
}

impl Meeting {
    /// Locks the state, which stays consistent even if a thread panics.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ThreadRanks {
    /// Gathers the bytes of all ranks, by rank.
    fn gather(&self, what: Vec<u8>) -> Result<Arc<Vec<Vec<u8>>>> {
        let mut state = self.meeting.state();
        let meeting = state.meetings;
        state.brought[self.rank] = Some(what);
        if state.brought.iter().all(Option::is_some) {
            let all = state.brought.iter_mut().filter_map(Option::take).collect();
            state.shared = Arc::new(all);
            state.meetings += 1;
            self.meeting.changed.notify_all();
        }
        while state.meetings == meeting {
            if let Some(left) = state.left {
                return Err(self.failed(format!("rank {left} has exited")));
            }
            let woken = self.meeting.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        Ok(Arc::clone(&state.shared))
    }

    /// Sums values in the order of the ranks.
    fn sum(&self, values: impl Iterator<Item = f64>) -> Result<Vec<f64>> {
        let own: Vec<u8> = values.flat_map(f64::to_le_bytes).collect();
        let bytes = own.len();
        let all = self.gather(own)?;
        if let Some(other) = all.iter().position(|other| other.len() != bytes) {
            let [found, own] = [all[other].len(), bytes].map(|bytes| bytes / 8);
            return Err(self.failed(format!(
                "rank {other} reduces {found} values, this rank {own}"
            )));
        }
        let mut sums = vec![0.0; bytes / 8];
        for rank in all.iter() {
            let numbers = rank.as_chunks().0.iter().copied();
            for (sum, number) in sums.iter_mut().zip(numbers.map(f64::from_le_bytes)) {
                *sum += number;
            }
        }
        Ok(sums)
    }

    fn failed(&self, finding: String) -> TrainError {
        TrainError::Communicator {
            rank: self.rank,
            size: self.size,
            finding,
        }
    }
}

impl Communicator for ThreadRanks {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce(&self, values: &Tensor) -> Result<()> {
        let change = change_values("all-reduce", values, |values| {
            let sums = self.sum(values.iter().copied().map(f64::from));
            for (value, sum) in values.iter_mut().zip(sums.map_err(Error::wrap)?) {
                *value = sum as f32;
            }
            Ok(())
        });
        Ok(change?)
    }

    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()> {
        let sums = self.sum(values.iter().copied())?;
        values.copy_from_slice(&sums);
        Ok(())
    }

    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<()> {
        let all = self.gather(std::mem::take(bytes))?;
        bytes.clone_from(&all[root]);
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        self.gather(Vec::new()).map(drop)
    }
}

impl Drop for ThreadRanks {
    fn drop(&mut self) {
        self.meeting.state().left.get_or_insert(self.rank);
        self.meeting.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn lost_or_mismatched_ranks_are_errors_on_the_others() {
        let mut ranks = ranks_of_threads(3);
        let gone = ranks.pop();
        let waiting = ranks
            .into_iter()
            .map(|ranks| thread::spawn(move || ranks.barrier()));
        let waiting: Vec<_> = waiting.collect();
        drop(gone);
        for thread in waiting {
            let error = thread.join().unwrap().unwrap_err().to_string();
            assert!(error.contains("has exited"), "{error}");
        }

        let differing = ranks_of_threads(2).into_iter().map(|ranks| {
            thread::spawn(move || {
                let values = Tensor::ones(1 + ranks.rank(), DType::F32, &Device::Cpu);
                ranks.all_reduce(&values.unwrap())
            })
        });
        for thread in differing.collect::<Vec<_>>() {
            assert!(thread.join().unwrap().is_err());
        }
    }

    #[test]
    fn broadcast_sends_the_root_values_to_all_ranks() {
        let threads = ranks_of_threads(3).into_iter().map(|ranks| {
            thread::spawn(move || {
                let mut bytes = vec![ranks.rank() as u8; 1 + ranks.rank()];
                ranks.broadcast(1, &mut bytes).map(|()| bytes)
            })
        });
        for thread in threads.collect::<Vec<_>>() {
            assert_eq!(thread.join().unwrap().unwrap(), [1, 1]);
        }
    }
}
