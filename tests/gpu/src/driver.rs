//! The driver: functions of NVIDIA's CUDA driver API, by its manual, as far as cudarc and this project call them.
//!
//! There is one device and one queue: all streams are one, in the order of the calls.

#![allow(non_snake_case, clippy::missing_safety_doc)]

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::device::with;
use crate::ptx::{Kernel, Launch, Source, decode, kernels};

/// What a call answers: one of these.
type Status = c_int;
const SUCCESS: Status = 0;
const INVALID_VALUE: Status = 1;
const NOT_FOUND: Status = 500;
const NOT_READY: Status = 600;
/// What the driver says when a kernel has left its memory.
const ILLEGAL_ADDRESS: Status = 700;

fn status(is_well: bool) -> Status {
    if is_well { SUCCESS } else { ILLEGAL_ADDRESS }
}

/// A module: its kernels, not yet decoded.
struct Module(HashMap<String, Source>);

/// Work up to this number, once recorded; when it was done, if that is known.
#[derive(Default)]
struct Event {
    number: Mutex<u64>,
    done_at: Arc<Mutex<Option<Instant>>>,
}

/// Any address that is not null, for handles of which there is one.
const ONLY: *mut c_void = std::ptr::dangling_mut::<u64>().cast();

/// Calls that have nothing to do.
macro_rules! nothing_to_do {
    ($($name:ident($($argument:ty),*);)*) => {
        $(#[unsafe(no_mangle)]
        pub extern "C" fn $name($(_: $argument),*) -> Status {
            SUCCESS
        })*
    };
}

nothing_to_do! {
    cuInit(c_uint);
    cuCtxSetCurrent(*mut c_void);
    cuCtxDestroy_v2(*mut c_void);
    cuDevicePrimaryCtxRelease_v2(c_int);
    cuModuleUnload(*mut c_void);
    cuStreamDestroy_v2(*mut c_void);
    // There is one queue.
    cuStreamWaitEvent(*mut c_void, *mut c_void, c_uint);
}

/// Calls that write one value to where they are told.
macro_rules! answers {
    ($($name:ident($to:ident: *mut $type:ty $(, $argument:ty)*) = $value:expr;)*) => {
        $(#[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($to: *mut $type $(, _: $argument)*) -> Status {
            // SAFETY: the caller gives a place to write to.
            unsafe { $to.write($value) };
            SUCCESS
        })*
    };
}

answers! {
    cuDeviceGet(to: *mut c_int, c_int) = 0;
    cuDeviceGetCount(to: *mut c_int) = 1;
    cuDriverGetVersion(to: *mut c_int) = 13_000;
    cuCtxGetCurrent(to: *mut *mut c_void) = ONLY;
    cuDevicePrimaryCtxRetain(to: *mut *mut c_void, c_int) = ONLY;
    cuDeviceGetDefaultMemPool(to: *mut *mut c_void, c_int) = ONLY;
    cuStreamCreate(to: *mut *mut c_void, c_uint) = ONLY;
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(_: *mut c_void, to: *mut c_int) -> Status {
    // SAFETY: the caller gives a place to write to.
    unsafe { to.write(0) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(
    to: *mut c_int,
    attribute: c_int,
    _: c_int,
) -> Status {
    let value = match attribute {
        1 | 2 => 1024,    // threads of a block
        10 => 32,         // threads of a warp
        16 => 4,          // multiprocessors
        75 => 9,          // compute capability, as Hopper's
        8 | 97 => 49_152, // bytes of a block's memory
        _ => 1,
    };
    // SAFETY: the caller gives a place to write to.
    unsafe { to.write(value) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(to: *mut c_char, size: c_int, _: c_int) -> Status {
    let name = c"stand-in for a GPU".to_bytes_with_nul();
    // SAFETY: the caller gives `size` bytes to write to.
    unsafe {
        to.cast::<u8>()
            .copy_from_nonoverlapping(name.as_ptr(), name.len().min(size as usize));
    };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(status: Status, to: *mut *const c_char) -> Status {
    // SAFETY: the caller's.
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
    // SAFETY: the caller gives a place to write to.
    unsafe { to.write(name.as_ptr()) };
    SUCCESS
}

// Memory.

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(to: *mut u64, size: usize) -> Status {
    if size == 0 {
        return INVALID_VALUE;
    }
    // SAFETY: the caller gives a place to write to.
    unsafe {
        to.write(with(|device| {
            device.note(format_args!("memory: {size} bytes"));
            device.memory.allocate(size)
        }));
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(to: *mut u64, size: usize, _: *mut c_void) -> Status {
    // SAFETY: the caller's.
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
    // SAFETY: the caller gives a place to write to.
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
    // SAFETY: it was leaked from such a box, and is forgotten.
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
        with(|device| device.memory.forget_most());
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
    let [now, most] = with(|device| device.memory.usage());
    // SAFETY: the caller gives a place for 64 bits.
    unsafe {
        to.cast::<u64>()
            .write(if attribute == USED { now } else { most } as u64);
    };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Status {
    const TOTAL: usize = 1 << 34;
    let [used, _] = with(|device| device.memory.usage());
    // SAFETY: the caller gives places to write to.
    unsafe {
        free.write(TOTAL.saturating_sub(used));
        total.write(TOTAL);
    }
    SUCCESS
}

/// The bytes from `start`, for a closure that another thread may run.
fn copy(to: u64, from: u64, size: usize) {
    // SAFETY: who calls it has seen that both are memory of this size.
    unsafe { (to as *mut u8).copy_from(from as *const u8, size) };
}

fn held(memory: &crate::memory::Allocations, start: u64, size: usize) -> Result<(), String> {
    let finding = || {
        format!(
            "copies {size} bytes at {start:#x} that are in no memory: {}",
            memory.near(start)
        )
    };
    memory.hold(start, size).then_some(()).ok_or_else(finding)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    size: usize,
    _: *mut c_void,
) -> Status {
    with(|device| {
        let start = from as usize;
        if device.pins(start, size) {
            // Read when it is its turn: what the host writes there before arrives.
            device.enqueue(
                format_args!("copy to the GPU: {size} bytes"),
                move |memory| {
                    held(memory, to, size)?;
                    copy(to, start as u64, size);
                    Ok(())
                },
            );
        } else {
            // SAFETY: the caller gives so many bytes to read.
            let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), size) }.to_vec();
            device.enqueue(
                format_args!("copy to the GPU: {size} bytes"),
                move |memory| {
                    held(memory, to, size)?;
                    copy(to, bytes.as_ptr() as u64, size);
                    Ok(())
                },
            );
        }
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
                held(memory, from, size)?;
                copy(to, from, size);
                Ok(())
            },
        );
        // Memory that may move is waited for.
        status(device.pins(to as usize, size) || device.finish_all())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, size: usize, _: *mut c_void) -> Status {
    with(|device| {
        device.enqueue(format_args!("copy: {size} bytes"), move |memory| {
            held(memory, from, size)?;
            held(memory, to, size)?;
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
            held(memory, to, size)?;
            // SAFETY: memory of this size.
            unsafe { (to as *mut u8).write_bytes(value, size) };
            Ok(())
        });
    });
    SUCCESS
}

// Waiting.

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
    // SAFETY: the caller gives a place to write to.
    unsafe { to.write(Box::into_raw(Box::<Event>::default()).cast()) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventDestroy_v2(event: *mut c_void) -> Status {
    // SAFETY: it came from `cuEventCreate`, and is not used again.
    drop(unsafe { Box::from_raw(event.cast::<Event>()) });
    SUCCESS
}

/// # Safety
/// It came from `cuEventCreate`.
unsafe fn event<'a>(event: *mut c_void) -> &'a Event {
    // SAFETY: the caller's.
    unsafe { &*event.cast() }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventRecord(recorded: *mut c_void, _: *mut c_void) -> Status {
    // SAFETY: the caller's.
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
    // SAFETY: the caller's.
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
    // SAFETY: the caller's.
    let [start, end] = [unsafe { event(start) }, unsafe { event(end) }];
    let at = |event: &Event| event.done_at.lock().ok().and_then(|at| *at);
    let (Some(start), Some(end)) = (at(start), at(end)) else {
        return NOT_READY;
    };
    // SAFETY: the caller gives a place to write to.
    unsafe { to.write(end.saturating_duration_since(start).as_secs_f32() * 1e3) };
    SUCCESS
}

// Modules and kernels. Neither is ever given back.

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(to: *mut *mut c_void, image: *const c_void) -> Status {
    // SAFETY: the caller gives text that ends with a zero.
    let Ok(text) = unsafe { CStr::from_ptr(image.cast()) }.to_str() else {
        return INVALID_VALUE;
    };
    let module = Box::new(Module(kernels(text)));
    // SAFETY: the caller gives a place to write to.
    unsafe { to.write(Box::into_raw(module).cast()) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoad(to: *mut *mut c_void, path: *const c_char) -> Status {
    // SAFETY: the caller gives text that ends with a zero.
    let path = unsafe { CStr::from_ptr(path) }.to_string_lossy();
    let Ok(text) = std::fs::read_to_string(path.as_ref()) else {
        return NOT_FOUND;
    };
    let module = Box::new(Module(kernels(&text)));
    // SAFETY: the caller gives a place to write to.
    unsafe { to.write(Box::into_raw(module).cast()) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    to: *mut *mut c_void,
    module: *mut c_void,
    name: *const c_char,
) -> Status {
    // SAFETY: it came from `cuModuleLoadData`, and the name ends with a zero.
    let (module, name) = unsafe { (&*module.cast::<Module>(), CStr::from_ptr(name)) };
    let Some(source) = name.to_str().ok().and_then(|name| module.0.get(name)) else {
        return NOT_FOUND;
    };
    let kernel: &'static Kernel = Box::leak(Box::new(decode(source)));
    // SAFETY: the caller gives a place to write to.
    unsafe { to.write(std::ptr::from_ref(kernel).cast_mut().cast()) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: *mut c_void,
    blocks_x: c_uint,
    blocks_y: c_uint,
    blocks_z: c_uint,
    threads_x: c_uint,
    threads_y: c_uint,
    threads_z: c_uint,
    shared: c_uint,
    _: *mut c_void,
    values: *mut *mut c_void,
    _: *mut *mut c_void,
) -> Status {
    // SAFETY: it came from `cuModuleGetFunction`, which leaked it.
    let kernel: &'static Kernel = unsafe { &*function.cast() };
    let (blocks, threads) = (
        [blocks_x, blocks_y, blocks_z],
        [threads_x, threads_y, threads_z],
    );
    if blocks.contains(&0) || threads.contains(&0) || threads.iter().product::<u32>() > 1024 {
        return INVALID_VALUE;
    }
    let end = kernel
        .parameters
        .last()
        .map_or(0, |(size, start)| start + size);
    let mut parameters = vec![0; end];
    for (index, (size, start)) in kernel.parameters.iter().enumerate() {
        // SAFETY: the caller gives the address of each parameter.
        unsafe {
            let value = values.add(index).read().cast::<u8>();
            value.copy_to_nonoverlapping(parameters[*start..].as_mut_ptr(), *size);
        }
    }
    with(|device| {
        device.enqueue(format_args!("kernel {}", kernel.name), move |memory| {
            let launch = Launch {
                kernel,
                blocks,
                threads,
                shared: kernel.shared + shared as usize,
                parameters: &parameters,
                memory,
            };
            launch.run()
        });
    });
    SUCCESS
}

/// libnvrtc asks for it, and does without.
#[unsafe(no_mangle)]
pub extern "C" fn cuGetExportTable(_: *mut *const c_void, _: *const c_void) -> Status {
    NOT_FOUND
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As on a GPU that has much to do before.
    #[test]
    fn what_the_host_changes_before_a_copy_s_turn_arrives() {
        let (mut there, mut pinned, mut event) = (0, std::ptr::null_mut(), std::ptr::null_mut());
        let mut found = [0u8; 2];
        let ordinary = [1u8; 2];
        // SAFETY: all places have the sizes that are said.
        unsafe {
            cuMemAlloc_v2(&raw mut there, 4);
            cuMemHostAlloc(&raw mut pinned, 2, 0);
            cuEventCreate(&raw mut event, 0);
            pinned.cast::<[u8; 2]>().write([5, 6]);
            cuMemcpyHtoDAsync_v2(there, pinned, 2, ONLY);
            cuEventRecord(event, ONLY);
            pinned.cast::<[u8; 2]>().write([7, 6]);
            assert_eq!(cuEventSynchronize(event), SUCCESS);
            pinned.cast::<[u8; 2]>().write([8, 6]);
            cuMemcpyDtoHAsync_v2(found.as_mut_ptr().cast(), there, 2, ONLY);
            assert_eq!(found, [7, 6]);
            // Memory that may move is copied at once.
            cuMemcpyHtoDAsync_v2(there, ordinary.as_ptr().cast(), 2, ONLY);
            cuMemcpyDtoHAsync_v2(found.as_mut_ptr().cast(), there + 1, 2, ONLY);
            assert_eq!(found, [1, 0xff]);
            cuMemFreeAsync(there, ONLY);
            assert_eq!(cuMemFreeHost(pinned), SUCCESS);
            assert_eq!(cuMemFreeHost(pinned), INVALID_VALUE);
            cuEventDestroy_v2(event);
        }
    }
}
