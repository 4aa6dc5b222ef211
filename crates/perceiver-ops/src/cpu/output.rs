//! Output buffers that tasks fill in parallel.
//!
//! Every task zeroes its part right before it fills it, so the zeros stay in its core's cache. A
//! buffer that is zeroed as a whole goes through memory once more.

use std::mem::MaybeUninit;

use rayon::prelude::*;

/// Computes `len` values, `task` of them at a time: `compute` gets what `init` returned for its
/// thread, the number of its task and zeros to overwrite.
#[allow(unsafe_code)]
pub(crate) fn computed<T: Copy + Default + Send, S>(
    len: usize,
    task: usize,
    init: impl Fn() -> S + Sync + Send,
    compute: impl Fn(&mut S, usize, &mut [T]) + Sync + Send,
) -> Vec<T> {
    let mut values = Vec::with_capacity(len);
    values.spare_capacity_mut()[..len]
        .par_chunks_mut(task.max(1))
        .enumerate()
        .for_each_init(init, |state, (number, part)| {
            part.fill(MaybeUninit::new(T::default()));
            // SAFETY: all values were written just now, and a slice of `MaybeUninit<T>` has the
            // layout of one of `T`.
            let part = unsafe { &mut *(std::ptr::from_mut(part) as *mut [T]) };
            compute(state, number, part);
        });
    // SAFETY: the parts cover all `len` values, and all tasks have returned.
    unsafe { values.set_len(len) };
    values
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
