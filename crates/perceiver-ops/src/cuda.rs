//! Kernels for NVIDIA GPUs: `kernels.cu`, compiled by the driver's library when the first is needed, for `f32` and `bf16`.
//!
//! What is done to every value for itself, or row by row, has a kernel here: dropouts, whose masks would else be made on the CPU and sent in
//! every step, and functions that would else be several passes over the memory. Everything else is composed of candle's operations.

#[cfg(feature = "cuda")]
pub(crate) mod column_sums;
#[cfg(feature = "cuda")]
mod computed;
#[cfg(feature = "cuda")]
mod launch;
#[cfg(feature = "cuda")]
pub(crate) mod layer_norm;
#[cfg(feature = "cuda")]
mod linear;
#[cfg(feature = "cuda")]
mod memory;
#[cfg(test)]
mod on_cpu;
#[cfg(feature = "cuda")]
mod open;
#[cfg(feature = "cuda")]
pub(crate) mod profile;
#[cfg(feature = "cuda")]
pub(crate) mod steps;
#[cfg(feature = "cuda")]
mod upload;
#[cfg(feature = "cuda")]
mod wide_product;

use candle_core::{DType, Tensor};

#[cfg(feature = "cuda")]
pub(crate) use column_sums::column_sums;
#[cfg(feature = "cuda")]
pub(crate) use computed::{Operand, computed, computed_alone};
#[cfg(feature = "cuda")]
pub(crate) use launch::{Number, map, map_rows, map_rows_to, map_to, sums_of_rows};
#[cfg(feature = "cuda")]
pub(crate) use linear::linear;
#[cfg(feature = "cuda")]
pub(crate) use memory::peak_bytes;
#[cfg(feature = "cuda")]
pub(crate) use open::open;
#[cfg(feature = "cuda")]
pub(crate) use upload::Pinned;
#[cfg(feature = "cuda")]
pub(crate) use wide_product::wide_product;

/// Whether the kernels apply to `tensor`; no tensor is on such a GPU where this crate was built without.
pub(crate) fn has_kernels(tensor: &Tensor) -> bool {
    tensor.device().is_cuda() && matches!(tensor.dtype(), DType::F32 | DType::BF16)
}
