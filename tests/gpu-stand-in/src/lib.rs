//! A stand-in for an NVIDIA GPU: a library with functions of the CUDA driver, cuBLAS and cuRAND
//! that runs kernels on the CPU.
//!
//! A program built for NVIDIA's GPUs runs on it unchanged if the library is loaded before NVIDIA's
//! own, as by `tests/gpu-stand-in/run`. Kernels come as PTX, from `nvcc` at build time or from
//! `libnvrtc` at run time, and are interpreted thread by thread. It is stricter than a GPU: memory
//! is filled with NaNs until it is written, accesses outside an allocation are errors, and work
//! starts as late as the driver permits, which reveals host memory that is changed too early. It
//! is slow, and its timings mean nothing.
//!
//! `GPU_STAND_IN_TRACE=FILE` writes a line for each request of a program: kernels, products,
//! copies, memory.

#![allow(unsafe_code, missing_docs, unreachable_pub)]
// Registers hold untyped bits.
#![allow(clippy::cast_possible_wrap)]

mod calls;
mod device;
mod driver;
mod memory;
mod products;
mod ptx;
