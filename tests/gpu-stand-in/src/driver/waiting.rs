//! Streams, which share one queue, events, and synchronization.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{INVALID_VALUE, NOT_READY, status};
use crate::calls::{ONLY, SUCCESS, Status, answers, nothing_to_do};
use crate::device::with;

nothing_to_do! {
    cuStreamDestroy_v2(*mut c_void);
    // All streams share one queue.
    cuStreamWaitEvent(*mut c_void, *mut c_void, c_uint);
}

answers! {
    cuStreamCreate(-> *mut c_void, c_uint) = ONLY;
    cuStreamIsCapturing(*mut c_void, -> c_int) = 0;
}

/// The number of the last operation before the event, once recorded, and the time when it was
/// executed, if known.
#[derive(Default)]
struct Event {
    number: Mutex<u64>,
    done_at: Arc<Mutex<Option<Instant>>>,
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> Status {
    with(|device| status(device.finish_all()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(_: *mut c_void) -> Status {
    cuCtxSynchronize()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(to: *mut *mut c_void, _: c_uint) -> Status {
    // SAFETY: the caller passes a pointer that is valid for writes.
    unsafe { to.write(Box::into_raw(Box::<Event>::default()).cast()) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventDestroy_v2(event: *mut c_void) -> Status {
    // SAFETY: `event` came from `cuEventCreate`, and is not used again.
    drop(unsafe { Box::from_raw(event.cast::<Event>()) });
    SUCCESS
}

/// # Safety
/// `event` must come from `cuEventCreate`.
unsafe fn event<'a>(event: *mut c_void) -> &'a Event {
    // SAFETY: guaranteed by the caller.
    unsafe { &*event.cast() }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventRecord(recorded: *mut c_void, _: *mut c_void) -> Status {
    // SAFETY: guaranteed by the caller.
    let event = unsafe { event(recorded) };
    let done_at = event.done_at.clone();
    let number = with(|device| {
        device.enqueue(format_args!("event"), move |_| {
            *done_at.lock().map_err(|error| error.to_string())? = Some(Instant::now());
            Ok(())
        })
    });
    event.number.lock().map_or(INVALID_VALUE, |mut known| {
        *known = number;
        SUCCESS
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventSynchronize(waited_for: *mut c_void) -> Status {
    // SAFETY: guaranteed by the caller.
    let number = unsafe { event(waited_for) }
        .number
        .lock()
        .map_or(0, |number| *number);
    with(|device| status(device.finish(number)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(
    to: *mut f32,
    start: *mut c_void,
    end: *mut c_void,
) -> Status {
    // SAFETY: guaranteed by the caller.
    let [start, end] = [unsafe { event(start) }, unsafe { event(end) }];
    let at = |event: &Event| event.done_at.lock().ok().and_then(|at| *at);
    let (Some(start), Some(end)) = (at(start), at(end)) else {
        return NOT_READY;
    };
    // SAFETY: the caller passes a pointer that is valid for writes.
    unsafe { to.write(end.saturating_duration_since(start).as_secs_f32() * 1e3) };
    SUCCESS
}

#[cfg(test)]
mod tests {
    use super::super::memory::{
        cuMemAlloc_v2, cuMemFreeAsync, cuMemFreeHost, cuMemHostAlloc, cuMemcpyDtoHAsync_v2,
        cuMemcpyHtoDAsync_v2,
    };
    use super::*;

    /// As on a GPU that is still busy with earlier work.
    #[test]
    fn host_writes_before_a_queued_copy_are_copied() {
        let _alone = crate::device::alone();
        let (mut device_memory, mut pinned, mut event) =
            (0, std::ptr::null_mut(), std::ptr::null_mut());
        let mut actual = [0u8; 2];
        let ordinary = [1u8; 2];
        // SAFETY: all buffers have the given sizes.
        unsafe {
            cuMemAlloc_v2(&raw mut device_memory, 4);
            cuMemHostAlloc(&raw mut pinned, 2, 0);
            cuEventCreate(&raw mut event, 0);
            pinned.cast::<[u8; 2]>().write([5, 6]);
            cuMemcpyHtoDAsync_v2(device_memory, pinned, 2, ONLY);
            cuEventRecord(event, ONLY);
            pinned.cast::<[u8; 2]>().write([7, 6]);
            assert_eq!(cuEventSynchronize(event), SUCCESS);
            pinned.cast::<[u8; 2]>().write([8, 6]);
            cuMemcpyDtoHAsync_v2(actual.as_mut_ptr().cast(), device_memory, 2, ONLY);
            assert_eq!(actual, [7, 6]);
            // Pageable memory is copied at once.
            cuMemcpyHtoDAsync_v2(device_memory, ordinary.as_ptr().cast(), 2, ONLY);
            cuMemcpyDtoHAsync_v2(actual.as_mut_ptr().cast(), device_memory + 1, 2, ONLY);
            assert_eq!(actual, [1, 0xff]);
            cuMemFreeAsync(device_memory, ONLY);
            assert_eq!(cuMemFreeHost(pinned), SUCCESS);
            assert_eq!(cuMemFreeHost(pinned), INVALID_VALUE);
            cuEventDestroy_v2(event);
        }
    }
}
