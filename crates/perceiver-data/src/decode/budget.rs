//! The memory budget of image decoding, shared by all threads of the process.

use std::sync::{Condvar, Mutex, PoisonError};

/// A memory budget that threads reserve bytes from before decoding.
///
/// The holder of a reservation must not wait for work that another thread of a pool may have taken:
/// that thread may itself be waiting here.
#[derive(Debug)]
pub(crate) struct DecodeBudget {
    limit: u64,
    reserved: Mutex<u64>,
    freed: Condvar,
}

impl DecodeBudget {
    /// Creates a budget of `limit` bytes.
    pub(crate) const fn new(limit: u64) -> Self {
        Self {
            limit,
            reserved: Mutex::new(0),
            freed: Condvar::new(),
        }
    }

    /// Returns the limit in bytes.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Reserves `bytes` until the reservation is dropped. Blocks until other threads have released
    /// enough. Returns `None` at once if `bytes` exceeds the whole budget.
    pub(crate) fn reserve(&self, bytes: u64) -> Option<Reservation<'_>> {
        if bytes > self.limit {
            return None;
        }
        let reserved = self.reserved.lock();
        let mut reserved = reserved.unwrap_or_else(PoisonError::into_inner);
        while *reserved > self.limit - bytes {
            let woken = self.freed.wait(reserved);
            reserved = woken.unwrap_or_else(PoisonError::into_inner);
        }
        *reserved += bytes;
        Some(Reservation {
            budget: self,
            bytes,
        })
    }
}

/// A reservation of bytes, released on drop.
#[derive(Debug)]
pub(crate) struct Reservation<'a> {
    budget: &'a DecodeBudget,
    bytes: u64,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let reserved = self.budget.reserved.lock();
        *reserved.unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use std::thread;

    use super::*;

    #[test]
    fn threads_together_stay_within_the_limit() {
        let budget = DecodeBudget::new(100);
        let (held, most) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for thread in 0..8_u64 {
                let (budget, held, most) = (&budget, &held, &most);
                scope.spawn(move || {
                    for round in 0..200 {
                        let bytes = 1 + (thread * 37 + round * 13) % 100;
                        let reservation = budget.reserve(bytes).unwrap();
                        most.fetch_max(held.fetch_add(bytes, SeqCst) + bytes, SeqCst);
                        thread::yield_now();
                        held.fetch_sub(bytes, SeqCst);
                        drop(reservation);
                    }
                });
            }
        });
        assert!((1..=100).contains(&most.load(SeqCst)), "{most:?}");
        assert_eq!(*budget.reserved.lock().unwrap(), 0);
    }

    #[test]
    fn requests_above_the_whole_budget_are_rejected() {
        let budget = DecodeBudget::new(100);
        let all = budget.reserve(100).unwrap();
        assert!(budget.reserve(101).is_none());
        drop(all);
        assert!(budget.reserve(100).is_some());
    }
}
