//! Random numbers that depend on names and counters, never on the order or the threads they are drawn by.
//!
//! A [`Key`] is 64 bits. Folding numbers or names into it gives new, independent keys, so that every draw of a
//! training run has an address: `(seed, epoch, sample)` for augmentation, `(seed, step, layer)` for dropout,
//! `(seed, parameter name)` for initialisation. A run that resumes at step 1,000 needs no saved generator state:
//! it computes the keys of step 1,000.
//!
//! ```
//! use perceiver_ops::Key;
//!
//! let step = Key::new(42).fold_in(1_000);
//! assert_eq!(step.fold_in(3), Key::new(42).fold_in(1_000).fold_in(3));
//! assert_ne!(step.fold_in(3), step.fold_in(4));
//! ```

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The odd constant of SplitMix64's counter, 2^64 over the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The address of a stream of random bits.
///
/// `fold_in` has the role it has in JAX's `jax.random`; the bits are those of SplitMix64 (Steele, Lea and Flood,
/// "Fast splittable pseudorandom number generators", 2014), whose n-th output is a function of n.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u64);

impl Key {
    /// The key at the root of everything random in a run.
    pub const fn new(seed: u64) -> Self {
        Self(mix(seed ^ GOLDEN))
    }

    /// The key of the `number`-th child: an epoch, a step, a sample, a layer.
    #[must_use]
    pub const fn fold_in(self, number: u64) -> Self {
        // Two rounds, so that neighbouring numbers under neighbouring keys share no structure.
        Self(mix(
            mix(self.0.wrapping_add(GOLDEN)) ^ number.wrapping_mul(GOLDEN)
        ))
    }

    /// The key of the child called `name`.
    #[must_use]
    pub fn fold_in_name(self, name: &str) -> Self {
        // FNV-1a, whose value for a name is fixed for good; the standard library's hasher is not.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        self.fold_in(hash)
    }

    /// The `index`-th 64 random bits of this key, computed without the ones before it.
    #[inline]
    pub const fn bits(self, index: u64) -> u64 {
        mix(self.0.wrapping_add(index.wrapping_mul(GOLDEN)))
    }

    /// What the key is, for a kernel on a GPU.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) const fn value(self) -> u64 {
        self.0
    }

    /// A number below `count`, which is at least 1, by the `index`-th bits of this key: uniform up to `count` / 2^64.
    #[inline]
    pub const fn below(self, index: u64, count: usize) -> usize {
        ((self.bits(index) as u128 * count as u128) >> 64) as usize
    }

    /// The key whose bits are those of this one from the `count`-th on.
    #[must_use]
    pub const fn skip(self, count: u64) -> Self {
        Self(self.0.wrapping_add(count.wrapping_mul(GOLDEN)))
    }

    /// A generator for draws of unknown number: `ChaCha8`, whose streams are the same in every version and on
    /// every machine.
    pub fn rng(self) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.0)
    }
}

/// SplitMix64's finalizer: a bijection of 64 bits in which every output bit depends on every input bit.
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
    fn bits_are_those_of_splitmix64() {
        // Reference outputs of SplitMix64 seeded with 1234567: its state advances before it is mixed, so the
        // first output is index 1 here.
        let key = Key(1_234_567);
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
    fn skipped_bits_are_left_out() {
        let key = Key::new(5);
        assert_eq!(key.skip(1_000).bits(7), key.bits(1_007));
    }

    #[test]
    fn neighbours_are_unrelated() {
        // About half of the 64 bits differ between any two neighbouring addresses.
        for seed in 0..50 {
            for number in 0..50 {
                let key = Key::new(seed);
                let here = key.fold_in(number).bits(0);
                let next = key.fold_in(number + 1).bits(0);
                let other = Key::new(seed + 1).fold_in(number).bits(0);
                assert!((8..=56).contains(&(here ^ next).count_ones()));
                assert!((8..=56).contains(&(here ^ other).count_ones()));
            }
        }
    }

    #[test]
    fn names_and_orders_matter() {
        let key = Key::new(7);
        assert_ne!(key.fold_in_name("latents"), key.fold_in_name("positions"));
        assert_ne!(key.fold_in(1).fold_in(2), key.fold_in(2).fold_in(1));
    }
}
