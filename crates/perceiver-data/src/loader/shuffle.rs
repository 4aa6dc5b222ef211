//! Random permutations.

use perceiver_ops::RngKey;

/// Shuffles `items` in place in the order drawn by `key` (Fisher-Yates).
pub(crate) fn shuffle<T>(items: &mut [T], key: RngKey) {
    for last in (1..items.len()).rev() {
        items.swap(last, key.below(last as u64, last + 1));
    }
}
