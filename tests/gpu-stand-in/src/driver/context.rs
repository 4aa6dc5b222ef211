//! The device, its context, and the names of errors.

use std::ffi::{c_char, c_int, c_uint, c_void};

use super::{ILLEGAL_ADDRESS, NOT_FOUND, NOT_READY};
use crate::calls::{ONLY, SUCCESS, Status, answers, nothing_to_do};

nothing_to_do! {
    cuInit(c_uint);
    cuCtxSetCurrent(*mut c_void);
    cuCtxDestroy_v2(*mut c_void);
    cuDevicePrimaryCtxRelease_v2(c_int);
}

answers! {
    cuDeviceGet(-> c_int, c_int) = 0;
    cuDeviceGetCount(-> c_int) = 1;
    cuDriverGetVersion(-> c_int) = 13_000;
    cuCtxGetCurrent(-> *mut c_void) = ONLY;
    cuDevicePrimaryCtxRetain(-> *mut c_void, c_int) = ONLY;
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(
    to: *mut c_int,
    attribute: c_int,
    _: c_int,
) -> Status {
    let value = match attribute {
        1 | 2 => 1024,    // threads per block
        10 => 32,         // threads per warp
        16 => 4,          // multiprocessors
        75 => 9,          // compute capability of Hopper
        8 | 97 => 49_152, // bytes of shared memory per block
        _ => 1,
    };
    // SAFETY: the caller passes a pointer that is valid for writes.
    unsafe { to.write(value) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(to: *mut c_char, size: c_int, _: c_int) -> Status {
    let name = c"stand-in for a GPU".to_bytes_with_nul();
    // SAFETY: the caller passes `size` writable bytes.
    unsafe {
        to.cast::<u8>()
            .copy_from_nonoverlapping(name.as_ptr(), name.len().min(size as usize));
    };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(status: Status, to: *mut *const c_char) -> Status {
    // SAFETY: guaranteed by the caller.
    unsafe { cuGetErrorString(status, to) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(status: Status, to: *mut *const c_char) -> Status {
    let name = match status {
        SUCCESS => c"no error",
        NOT_FOUND => c"not found",
        NOT_READY => c"not ready",
        ILLEGAL_ADDRESS => c"illegal address: see what the stand-in for a GPU wrote to stderr",
        _ => c"invalid value",
    };
    // SAFETY: the caller passes a pointer that is valid for writes.
    unsafe { to.write(name.as_ptr()) };
    SUCCESS
}

/// Called by libnvrtc, which works without it.
#[unsafe(no_mangle)]
pub extern "C" fn cuGetExportTable(_: *mut *const c_void, _: *const c_void) -> Status {
    NOT_FOUND
}
