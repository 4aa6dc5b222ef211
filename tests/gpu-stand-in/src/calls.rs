//! Shared by all calls: the status code, and macros for trivial functions.

use std::ffi::{c_int, c_void};

/// The result of a call: 0, or an error code.
pub(crate) type Status = c_int;

/// The status of a successful call, the same in all libraries.
pub(crate) const SUCCESS: Status = 0;

/// The handle of objects of which there is only one: any non-null address.
pub(crate) const ONLY: *mut c_void = std::ptr::dangling_mut::<u64>().cast();

/// Defines functions that do nothing.
macro_rules! nothing_to_do {
    ($($name:ident($($argument:ty),*);)*) => {
        $(#[unsafe(no_mangle)]
        pub extern "C" fn $name($(_: $argument),*) -> $crate::calls::Status {
            $crate::calls::SUCCESS
        })*
    };
}

/// Defines functions that write one value to an output pointer.
macro_rules! answers {
    ($($name:ident($($before:ty,)* -> $type:ty $(, $argument:ty)*) = $value:expr;)*) => {
        $(#[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($(_: $before,)* to: *mut $type $(, _: $argument)*) -> $crate::calls::Status {
            // SAFETY: the caller passes a pointer that is valid for writes.
            unsafe { to.write($value) };
            $crate::calls::SUCCESS
        })*
    };
}

pub(crate) use {answers, nothing_to_do};
