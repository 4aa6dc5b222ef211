//! Random orders.

use perceiver_ops::Key;

/// Brings `items` into the order that `key` draws: Fisher and Yates's shuffle.
pub(crate) fn shuffle<T>(items: &mut [T], key: Key) {
    for last in (1..items.len()).rev() {
        // The high half of bits * n is uniform below n, up to n / 2^64.
        let other = (u128::from(key.bits(last as u64)) * (last as u128 + 1)) >> 64;
        items.swap(last, other as usize);
    }
}
