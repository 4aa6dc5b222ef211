//! The dropout mask of attention probabilities: a function of the key, the image, the head, the
//! query and the key's index.

use candle_core::{Result, bail};

use super::shape::Geometry;
use crate::cpu::simd::LANES;
use crate::{Mode, RngKey};

/// Number of random words for a block of `LANES` keys: each word decides two.
const WORDS: usize = LANES / 2;

/// The dropout mask of attention weights, from 32 random bits per entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mask {
    key: RngKey,
    threshold: u32,
    /// `1 / (1 - rate)`
    pub(crate) factor: f32,
}

impl Mask {
    /// Creates the mask for an attention of this geometry; `None` if nothing is dropped.
    pub(crate) fn new(rate: f64, mode: Mode, g: Geometry) -> Result<Option<Self>> {
        Self::of_images(rate, mode, g.heads * g.queries * words(g.keys))
    }

    /// Creates the mask for images that use `words` random words each.
    fn of_images(rate: f64, mode: Mode, words: usize) -> Result<Option<Self>> {
        if !(0.0..1.0).contains(&rate) {
            bail!("attention: expected a dropout rate of at least 0 and below 1, found {rate}");
        }
        let key = mode.mask_key(words).filter(|_| rate > 0.0);
        Ok(key.map(|key| Self {
            key,
            threshold: (rate * f64::from(u32::MAX)) as u32,
            factor: (1.0 / (1.0 - rate)) as f32,
        }))
    }

    /// Returns key, threshold and factor for a GPU kernel.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn for_gpu(&self) -> (u64, u32, f32) {
        (self.key.value(), self.threshold, self.factor)
    }

    /// Sets the sign bit of every dropped probability. `row` is the index among the rows of logits
    /// of all images, heads and queries; `probabilities` are those of the keys from `first` on, a
    /// multiple of `LANES`.
    #[inline(always)]
    pub(crate) fn mark(&self, row: usize, keys: usize, first: usize, probabilities: &mut [f32]) {
        let start = row * words(keys) + first / LANES * WORDS;
        let (chunks, rest) = probabilities.as_chunks_mut::<LANES>();
        for (index, chunk) in chunks.iter_mut().enumerate() {
            self.mark_block((start + index * WORDS) as u64, chunk);
        }
        if !rest.is_empty() {
            let mut last = [0f32; LANES];
            last[..rest.len()].copy_from_slice(rest);
            self.mark_block((start + chunks.len() * WORDS) as u64, &mut last);
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }

    #[inline(always)]
    fn mark_block(&self, word: u64, block: &mut [f32; LANES]) {
        let mut bits = [0u64; WORDS];
        for (index, bits) in bits.iter_mut().enumerate() {
            *bits = self.key.bits(word + index as u64);
        }
        let (low, high) = block.split_at_mut(WORDS);
        for ((low, high), bits) in low.iter_mut().zip(high).zip(bits) {
            *low = negative_if(*low, (bits as u32) < self.threshold);
            *high = negative_if(*high, ((bits >> 32) as u32) < self.threshold);
        }
    }

    /// Returns the factor of every probability, `[batch, heads, queries, keys]`.
    pub(crate) fn factors(&self, g: Geometry) -> Vec<f32> {
        let mut factors = vec![self.factor; g.batch * g.heads * g.queries * g.keys];
        for (row, factors) in factors.chunks_mut(g.keys).enumerate() {
            self.mark(row, g.keys, 0, factors);
            for factor in factors {
                *factor = kept(*factor);
            }
        }
        factors
    }
}

/// Returns the number of random words for a row of `keys` keys.
#[inline(always)]
const fn words(keys: usize) -> usize {
    keys.div_ceil(LANES) * WORDS
}

/// Returns a marked probability after dropout, without the factor. NaN passes through.
#[inline(always)]
pub(crate) fn kept(marked: f32) -> f32 {
    if marked < 0.0 { 0.0 } else { marked }
}

#[inline(always)]
fn negative_if(value: f32, fallen: bool) -> f32 {
    f32::from_bits(value.to_bits() | (u32::from(fallen) << 31))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_dropped_at_the_rate_for_any_block() {
        let mask = Mask::of_images(0.3, Mode::Training(RngKey::new(3)), 0)
            .unwrap()
            .unwrap();
        let mut whole = vec![1f32; 10_000];
        mask.mark(5, 10_000, 0, &mut whole);
        let fallen = whole.iter().filter(|p| p.is_sign_negative()).count();
        assert!((2_800..3_200).contains(&fallen), "{fallen} of 10,000 fell");
        let mut tail = vec![1f32; 10_000 - 4_096];
        mask.mark(5, 10_000, 4_096, &mut tail);
        assert_eq!(tail, whole[4_096..]);
    }
}
