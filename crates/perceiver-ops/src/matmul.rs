//! Matrix multiplication by kernels of our own, with `f32` sums: of bf16 inputs on CPUs that have
//! instructions for it, and of `f32` on CPUs with AVX2 but without AVX-512. For `f32` on other CPUs,
//! the `gemm` crate is as fast.
//!
//! Both operands are packed, whatever their type and order in memory, and for bf16 rounded on the
//! way. A product then consists of tiles: some rows of the left operand times a panel of
//! [`Format::columns`](format::Format::columns) columns of the right one, over a block of the inner
//! dimension that fits the first-level cache. Blocks and tiles depend only on the shapes, and a
//! value is always summed by one thread, in order, so results do not depend on threads.
//!
//! The instructions for bf16 treat subnormal numbers as zero.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod format;
pub(crate) mod kernel;
pub(crate) mod operand;
mod pack;
pub(crate) mod packed_matrix;
mod portable;
mod product;
pub(crate) mod right;
pub(crate) mod rounding;
mod tile;

#[cfg(test)]
mod tests;
