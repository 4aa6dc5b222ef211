//! What all calls share: what they answer, and how those are written down that do next to nothing.

use std::ffi::{c_int, c_void};

/// What a call answers: 0, or which error.
pub(crate) type Status = c_int;

/// All is well, with every library.
pub(crate) const SUCCESS: Status = 0;

/// Any address that is not null, for handles of which there is one.
pub(crate) const ONLY: *mut c_void = std::ptr::dangling_mut::<u64>().cast();

/// Calls that have nothing to do.
macro_rules! nothing_to_do {
    ($($name:ident($($argument:ty),*);)*) => {
        $(#[unsafe(no_mangle)]
        pub extern "C" fn $name($(_: $argument),*) -> $crate::calls::Status {
            $crate::calls::SUCCESS
        })*
    };
}

/// Calls that write one value to where they are told.
macro_rules! answers {
    ($($name:ident($($before:ty,)* -> $type:ty $(, $argument:ty)*) = $value:expr;)*) => {
        $(#[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($(_: $before,)* to: *mut $type $(, _: $argument)*) -> $crate::calls::Status {
            // SAFETY: the caller gives a place to write to.
            unsafe { to.write($value) };
            $crate::calls::SUCCESS
        })*
    };
}

pub(crate) use {answers, nothing_to_do};
