//! Converts panics of decoders to errors.

use std::panic::{self, AssertUnwindSafe};

/// Calls a decoder of another crate. Decoders return errors for nearly all malformed files and panic
/// for the rest. A file is untrusted input, so a panic means a damaged file, the error of which is
/// `damaged`.
pub(crate) fn contained<T, E>(
    decode: impl FnOnce() -> Result<T, E>,
    damaged: impl FnOnce() -> E,
) -> Result<T, E> {
    panic::catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| Err(damaged()))
}
