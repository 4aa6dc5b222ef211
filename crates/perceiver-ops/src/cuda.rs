//! CUDA kernels: `kernels.cu`, compiled by NVRTC at first use, for `f32` and `bf16`.
//!
//! A function of each value or row has a kernel here: dropouts, whose masks would otherwise be
//! computed on the CPU and copied in every step, and functions that would otherwise take several
//! passes through memory. Everything else is composed of candle's operations.

#[cfg(feature = "cuda")]
pub(crate) mod bf16_gemm;
pub(crate) mod device;
#[cfg(test)]
mod emulator;
pub(crate) mod profiler;
#[cfg(feature = "cuda")]
pub(crate) mod reduce;
#[cfg(feature = "cuda")]
pub(crate) mod tensor;
pub(crate) mod transfer;

#[cfg(feature = "cuda")]
pub(crate) mod launch;
#[cfg(feature = "cuda")]
pub(crate) mod layer_norm;
#[cfg(feature = "cuda")]
mod memory;

use candle_core::{DType, Tensor};

#[cfg(feature = "cuda")]
pub(crate) use bf16_gemm::wide_product;
#[cfg(feature = "cuda")]
pub(crate) use device::open::open;
#[cfg(feature = "cuda")]
pub(crate) use launch::{Number, map, map_rows, map_rows_to, map_to, sums_of_rows};
#[cfg(feature = "cuda")]
pub(crate) use memory::peak_bytes;
#[cfg(feature = "cuda")]
pub(crate) use reduce::column_sums;
#[cfg(feature = "cuda")]
pub(crate) use tensor::{Operand, computed, computed_alone};
#[cfg(feature = "cuda")]
pub(crate) use transfer::pinned::Pinned;

/// Returns whether the kernels apply to `tensor`; without the feature `cuda`, no tensor is on an
/// NVIDIA GPU.
pub(crate) fn has_kernels(tensor: &Tensor) -> bool {
    tensor.device().is_cuda() && matches!(tensor.dtype(), DType::F32 | DType::BF16)
}
