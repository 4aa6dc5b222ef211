//! NVIDIA's CUDA driver API, by its manual, to the extent that cudarc and this project call it.
//!
//! There is one device with one queue: all streams share it, in the order of the calls.

#![allow(non_snake_case, clippy::missing_safety_doc)]

mod context;
mod kernels;
mod memory;
mod waiting;

#[cfg(test)]
pub(crate) use memory::{cuMemAlloc_v2, cuMemcpyDtoHAsync_v2, cuMemcpyHtoDAsync_v2};

use crate::calls::{SUCCESS, Status};

const INVALID_VALUE: Status = 1;
const NOT_FOUND: Status = 500;
const NOT_READY: Status = 600;
/// The error after a kernel has accessed invalid memory.
const ILLEGAL_ADDRESS: Status = 700;

fn status(is_well: bool) -> Status {
    if is_well { SUCCESS } else { ILLEGAL_ADDRESS }
}
