//! Matrix multiplication of bf16 inputs with f32 sums, on CPUs that have instructions for it.
//!
//! Operands are rounded to bf16 while they are packed, whatever their type and order in memory; a
//! left operand that is bf16 already is read as it is ([`unpacked`]). A product then consists of
//! tiles: some rows of the left operand times [`TILE_COLUMNS`](tile::TILE_COLUMNS) columns of the
//! right one, over a block of the inner dimension that fits the first-level cache. Blocks and tiles
//! depend only on the shapes, and a value is always summed by one thread, in order, so results do
//! not depend on threads. They depend on the kernel: AMX adds up 16 pairs before it adds them to a sum,
//! the others add pair after pair.
//!
//! The unit of packed values is the pair: two values next to each other along the inner dimension
//! in one `u32`, since all instructions for bf16 multiply pairs.
//!
//! The instructions treat subnormal numbers as zero.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod kernel;
pub(crate) mod operand;
mod pack;
pub(crate) mod packed_matrix;
mod portable;
mod product;
pub(crate) mod right;
pub(crate) mod rounding;
mod tile;
pub(crate) mod transposed;
pub(crate) mod unpacked;

#[cfg(test)]
mod tests;
