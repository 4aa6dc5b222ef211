//! Uniform random numbers from a key.

use perceiver_ops::RngKey;

/// Returns the `index`-th uniform number in `[0, 1)` of a key, with the 24 bits of an `f32`
/// mantissa.
pub(crate) fn uniform(key: RngKey, index: u64) -> f32 {
    (key.bits(index) >> 40) as f32 / (1_u32 << 24) as f32
}
