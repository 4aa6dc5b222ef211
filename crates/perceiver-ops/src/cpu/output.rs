//! Output buffers that tasks fill in parallel.
//!
//! Every task zeroes its part right before it fills it, so the zeros stay in its core's cache. A
//! buffer that is zeroed as a whole goes through memory once more.

use std::mem::MaybeUninit;

use rayon::prelude::*;

/// Values that tasks are about to compute, part by part.
pub(crate) struct Output<T> {
    values: Vec<T>,
    len: usize,
}

impl<T> Output<T> {
    /// Allocates `len` values.
    pub(crate) fn new(len: usize) -> Self {
        Self {
            values: Vec::with_capacity(len),
            len,
        }
    }

    /// Returns the values, to split into parts.
    pub(crate) fn values(&mut self) -> &mut [MaybeUninit<T>] {
        &mut self.values.spare_capacity_mut()[..self.len]
    }

    /// Returns the values.
    ///
    /// # Safety
    /// [`zeroed`] was called for all of them.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn finish(mut self) -> Vec<T> {
        // SAFETY: all values were written by the contract.
        unsafe { self.values.set_len(self.len) };
        self.values
    }
}

/// Returns a part of an [`Output`] as zeros to overwrite.
#[allow(unsafe_code)]
pub(crate) fn zeroed<T: Copy + Default>(part: &mut [MaybeUninit<T>]) -> &mut [T] {
    part.fill(MaybeUninit::new(T::default()));
    // SAFETY: all values were written just now, and a slice of `MaybeUninit<T>` has the layout of one
    // of `T`.
    unsafe { &mut *(std::ptr::from_mut(part) as *mut [T]) }
}

/// Computes `len` values, `task` of them at a time: `compute` gets what `init` returned for its
/// thread, the number of its task and zeros to overwrite.
#[allow(unsafe_code)]
pub(crate) fn computed<T: Copy + Default + Send, S>(
    len: usize,
    task: usize,
    init: impl Fn() -> S + Sync + Send,
    compute: impl Fn(&mut S, usize, &mut [T]) + Sync + Send,
) -> Vec<T> {
    let mut output = Output::new(len);
    output
        .values()
        .par_chunks_mut(task.max(1))
        .enumerate()
        .for_each_init(init, |state, (number, part)| {
            compute(state, number, zeroed(part));
        });
    // SAFETY: every task has zeroed its part, and all have returned.
    unsafe { output.finish() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_fills_its_part() {
        for (len, task) in [(0, 3), (1, 3), (9, 3), (10, 3), (5, 0)] {
            let values = computed(
                len,
                task,
                || (),
                |(), number, part| {
                    assert!(part.iter().all(|value| *value == 0));
                    for (at, value) in part.iter_mut().enumerate() {
                        *value = number * task.max(1) + at + 1;
                    }
                },
            );
            assert!(values.into_iter().eq(1..=len));
        }
    }
}
