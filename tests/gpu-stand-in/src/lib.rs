//! In place of an NVIDIA GPU: a library with functions of the CUDA driver, cuBLAS and cuRAND that runs kernels on the CPU.
//!
//! A program that was built for NVIDIA's GPUs runs on it unchanged if it is loaded before NVIDIA's own libraries, which `tests/gpu-stand-in/run` does. Kernels
//! come as PTX, from `nvcc` at build time or from `libnvrtc` at run time, and are interpreted thread by thread. What it is stricter in than
//! a GPU: memory is full of NaNs until it is written, no byte outside an allocation can be touched, and work is started as late as the
//! driver may, so that what the host changes too early is noticed. What it is not: fast, or a measure of time.
//!
//! `GPU_STAND_IN_TRACE=FILE` writes a line for everything a program asks for: kernels, products, copies, memory.

#![allow(unsafe_code, missing_docs, unreachable_pub)]
// Registers hold bits, whatever they mean.
#![allow(clippy::cast_possible_wrap)]

mod calls;
mod device;
mod driver;
mod memory;
mod products;
mod ptx;
