//! Counter-based random numbers: functions of names and counters, independent of drawing order and
//! threads.
//!
//! An [`RngKey`] is 64 bits. Folding numbers or names into it gives new, independent keys, so every
//! draw of a training run has an address: `(seed, epoch, sample)` for augmentation,
//! `(seed, step, layer)` for dropout, `(seed, parameter name)` for initialization. A run that
//! resumes at step 1,000 needs no saved generator state: it computes the keys of step 1,000.
//!
//! ```
//! use perceiver_ops::RngKey;
//!
//! let step = RngKey::new(42).fold_in(1_000);
//! assert_eq!(step.fold_in(3), RngKey::new(42).fold_in(1_000).fold_in(3));
//! assert_ne!(step.fold_in(3), step.fold_in(4));
//! ```

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The odd constant of SplitMix64's counter, 2^64 over the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A key: the address of a stream of random bits.
///
/// `fold_in` works as in JAX's `jax.random`; the bits are those of SplitMix64 (Steele, Lea and
/// Flood, "Fast splittable pseudorandom number generators", 2014), whose n-th output is a function
/// of n.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RngKey(u64);

impl RngKey {
    /// Creates the root key of a run.
    pub const fn new(seed: u64) -> Self {
        Self(mix(seed ^ GOLDEN))
    }

    /// Returns the key of the `number`-th child: an epoch, a step, a sample, a layer.
    #[must_use]
    pub const fn fold_in(self, number: u64) -> Self {
        // Two rounds, so that neighbouring numbers under neighbouring keys share no structure.
        Self(mix(
            mix(self.0.wrapping_add(GOLDEN)) ^ number.wrapping_mul(GOLDEN)
        ))
    }

    /// Returns the key of the child called `name`.
    #[must_use]
    pub fn fold_in_name(self, name: &str) -> Self {
        // FNV-1a gives a name the same value forever; the standard library's hasher does not.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        self.fold_in(hash)
    }

    /// Returns the `index`-th 64 random bits of this key, without computing earlier ones.
    #[inline]
    pub const fn bits(self, index: u64) -> u64 {
        mix(self.0.wrapping_add(index.wrapping_mul(GOLDEN)))
    }

    /// Returns the key's value, for a GPU kernel.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) const fn value(self) -> u64 {
        self.0
    }

    /// Returns a number below `count`, which must be at least 1, from the `index`-th bits of this
    /// key: uniform up to `count` / 2^64.
    #[inline]
    pub const fn below(self, index: u64, count: usize) -> usize {
        ((self.bits(index) as u128 * count as u128) >> 64) as usize
    }

    /// Returns the key whose bits are those of this one from the `count`-th on.
    #[must_use]
    pub const fn skip(self, count: u64) -> Self {
        Self(self.0.wrapping_add(count.wrapping_mul(GOLDEN)))
    }

    /// Returns a generator for a variable number of draws: `ChaCha8`, whose streams are the same in
    /// every version and on every machine.
    pub fn rng(self) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.0)
    }
}

/// Computes SplitMix64's finalizer: a bijection of 64 bits in which every output bit depends on
/// every input bit.
#[inline]
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_equal_splitmix64() {
        // Reference outputs of SplitMix64 seeded with 1234567: it advances its state before mixing,
        // so the first output has index 1 here.
        let key = RngKey(1_234_567);
        let outputs: Vec<u64> = (1..=3).map(|index| key.bits(index)).collect();
        assert_eq!(
            outputs,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn skip_advances_the_stream() {
        let key = RngKey::new(5);
        assert_eq!(key.skip(1_000).bits(7), key.bits(1_007));
    }

    #[test]
    fn adjacent_keys_are_uncorrelated() {
        // About half of the 64 bits differ between neighbouring addresses.
        for seed in 0..50 {
            for number in 0..50 {
                let key = RngKey::new(seed);
                let here = key.fold_in(number).bits(0);
                let next = key.fold_in(number + 1).bits(0);
                let other = RngKey::new(seed + 1).fold_in(number).bits(0);
                assert!((8..=56).contains(&(here ^ next).count_ones()));
                assert!((8..=56).contains(&(here ^ other).count_ones()));
            }
        }
    }

    #[test]
    fn keys_depend_on_names_and_order() {
        let key = RngKey::new(7);
        assert_ne!(key.fold_in_name("latents"), key.fold_in_name("positions"));
        assert_ne!(key.fold_in(1).fold_in(2), key.fold_in(2).fold_in(1));
    }
}
