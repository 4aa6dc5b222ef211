//! Modules and kernels, neither of which is ever freed.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_uint, c_void};

use super::{INVALID_VALUE, NOT_FOUND};
use crate::calls::{SUCCESS, Status, nothing_to_do};
use crate::device::with;
use crate::ptx::{Kernel, Launch, Source, decode, kernels};

nothing_to_do! {
    cuModuleUnload(*mut c_void);
}

/// A module: its kernels, not yet decoded.
struct Module(HashMap<String, Source>);

/// Parses the text of a module, and leaks the result.
fn load(text: &str) -> *mut c_void {
    Box::into_raw(Box::new(Module(kernels(text)))).cast()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(to: *mut *mut c_void, image: *const c_void) -> Status {
    // SAFETY: the caller passes a NUL-terminated string.
    let Ok(text) = unsafe { CStr::from_ptr(image.cast()) }.to_str() else {
        return INVALID_VALUE;
    };
    // SAFETY: the caller passes a pointer that is valid for writes.
    unsafe { to.write(load(text)) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoad(to: *mut *mut c_void, path: *const c_char) -> Status {
    // SAFETY: the caller passes a NUL-terminated string.
    let path = unsafe { CStr::from_ptr(path) }.to_string_lossy();
    let Ok(text) = std::fs::read_to_string(path.as_ref()) else {
        return NOT_FOUND;
    };
    // SAFETY: the caller passes a pointer that is valid for writes.
    unsafe { to.write(load(&text)) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    to: *mut *mut c_void,
    module: *mut c_void,
    name: *const c_char,
) -> Status {
    // SAFETY: `module` came from `cuModuleLoadData`, and the name is NUL-terminated.
    let (module, name) = unsafe { (&*module.cast::<Module>(), CStr::from_ptr(name)) };
    let Some(source) = name.to_str().ok().and_then(|name| module.0.get(name)) else {
        return NOT_FOUND;
    };
    let kernel: &'static Kernel = Box::leak(Box::new(decode(source)));
    // SAFETY: the caller passes a pointer that is valid for writes.
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
    // SAFETY: `function` came from `cuModuleGetFunction`, which leaked it.
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
        // SAFETY: the caller passes the address of each parameter.
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
