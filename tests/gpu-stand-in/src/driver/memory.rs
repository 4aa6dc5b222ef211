//! GPU memory, pinned host memory, and copies between them.

use std::ffi::{c_int, c_uint, c_void};

use super::{INVALID_VALUE, status};
use crate::calls::{ONLY, SUCCESS, Status, answers};
use crate::device::with;

answers! {
    cuDeviceGetDefaultMemPool(-> *mut c_void, c_int) = ONLY;
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(to: *mut u64, size: usize) -> Status {
    if size == 0 {
        return INVALID_VALUE;
    }
    // SAFETY: the caller passes a pointer that is valid for writes.
    unsafe {
        to.write(with(|device| {
            device.write_trace(format_args!("memory: {size} bytes"));
            device.memory.allocate(size)
        }));
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(to: *mut u64, size: usize, _: *mut c_void) -> Status {
    // SAFETY: guaranteed by the caller.
    unsafe { cuMemAlloc_v2(to, size) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(start: u64) -> Status {
    with(|device| {
        device.enqueue(format_args!("free"), move |memory| memory.free(start));
        status(device.finish_all())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(start: u64, _: *mut c_void) -> Status {
    with(|device| device.enqueue(format_args!("free"), move |memory| memory.free(start)));
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(to: *mut *mut c_void, size: usize, _: c_uint) -> Status {
    let memory = Box::leak(vec![0xff_u8; size].into_boxed_slice());
    with(|device| device.pinned.insert(memory.as_ptr() as usize, size));
    // SAFETY: the caller passes a pointer that is valid for writes.
    unsafe { to.write(memory.as_mut_ptr().cast()) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(start: *mut c_void) -> Status {
    let Some(size) = with(|device| {
        device.finish_all();
        device.pinned.remove(&(start as usize))
    }) else {
        return INVALID_VALUE;
    };
    // SAFETY: the memory was leaked from such a box, and is no longer registered.
    drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(start.cast::<u8>(), size)) });
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolSetAttribute(
    _: *mut c_void,
    attribute: c_int,
    _: *mut c_void,
) -> Status {
    const MOST_USED: c_int = 8;
    if attribute == MOST_USED {
        with(|device| device.memory.reset_peak());
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolGetAttribute(
    _: *mut c_void,
    attribute: c_int,
    to: *mut c_void,
) -> Status {
    const USED: c_int = 7;
    let [now, peak] = with(|device| device.memory.usage());
    // SAFETY: the caller passes a pointer to 64 writable bits.
    unsafe {
        to.cast::<u64>()
            .write(if attribute == USED { now } else { peak } as u64);
    };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Status {
    const TOTAL: usize = 1 << 34;
    let [used, _] = with(|device| device.memory.usage());
    // SAFETY: the caller passes pointers that are valid for writes.
    unsafe {
        free.write(TOTAL.saturating_sub(used));
        total.write(TOTAL);
    }
    SUCCESS
}

/// Copies bytes between addresses of the host, where GPU memory also lies.
fn copy(to: u64, from: u64, size: usize) {
    // SAFETY: callers have checked that both ranges have this size.
    unsafe { (to as *mut u8).copy_from(from as *const u8, size) };
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    size: usize,
    _: *mut c_void,
) -> Status {
    let from = from as u64;
    with(|device| {
        // Pinned memory is read when the copy is executed, after later writes of the host.
        let bytes = (!device.pins(from as usize, size))
            // SAFETY: the caller passes `size` readable bytes.
            .then(|| unsafe { std::slice::from_raw_parts(from as *const u8, size) }.to_vec());
        device.enqueue(
            format_args!("copy to the GPU: {size} bytes"),
            move |memory| {
                memory.piece(to, size)?;
                copy(
                    to,
                    bytes.as_ref().map_or(from, |bytes| bytes.as_ptr() as u64),
                    size,
                );
                Ok(())
            },
        );
    });
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    size: usize,
    _: *mut c_void,
) -> Status {
    let to = to as u64;
    with(|device| {
        device.enqueue(
            format_args!("copy from the GPU: {size} bytes"),
            move |memory| {
                memory.piece(from, size)?;
                copy(to, from, size);
                Ok(())
            },
        );
        // A copy to pageable memory is synchronous.
        status(device.pins(to as usize, size) || device.finish_all())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, size: usize, _: *mut c_void) -> Status {
    with(|device| {
        device.enqueue(format_args!("copy: {size} bytes"), move |memory| {
            memory.piece(from, size)?;
            memory.piece(to, size)?;
            copy(to, from, size);
            Ok(())
        });
    });
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyPeerAsync(
    to: u64,
    _: *mut c_void,
    from: u64,
    _: *mut c_void,
    size: usize,
    stream: *mut c_void,
) -> Status {
    cuMemcpyDtoDAsync_v2(to, from, size, stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(to: u64, value: u8, size: usize, _: *mut c_void) -> Status {
    with(|device| {
        device.enqueue(format_args!("filling: {size} bytes"), move |memory| {
            memory.piece(to, size)?;
            // SAFETY: the allocation contains these bytes.
            unsafe { (to as *mut u8).write_bytes(value, size) };
            Ok(())
        });
    });
    SUCCESS
}
