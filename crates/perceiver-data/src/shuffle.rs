//! Random orders.

use perceiver_ops::Key;

/// Brings `items` into the order that `key` draws: Fisher and Yates's shuffle.
pub(crate) fn shuffle<T>(items: &mut [T], key: Key) {
    for last in (1..items.len()).rev() {
        items.swap(last, key.below(last as u64, last + 1));
    }
}
