//! Rounding to bf16, to the nearest value, ties to even; NaN stays NaN.

use half::bf16;
use half::slice::HalfFloatSliceExt;

/// A number that can be rounded to bf16.
pub(super) trait Element: Copy {
    /// Returns the bits of the rounded number in the upper half; the lower half is undefined.
    fn upper_bits(self) -> u32;

    /// Returns values that are next to each other as pairs.
    #[inline(always)]
    fn pairs(values: &[Self; 32]) -> [u32; 16] {
        let mut pairs = [0; 16];
        for (to, [low, high]) in pairs.iter_mut().zip(values.as_chunks::<2>().0) {
            *to = pair(*low, *high);
        }
        pairs
    }
}

impl Element for f32 {
    #[inline(always)]
    fn upper_bits(self) -> u32 {
        let bits = self.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
        // Rounding could turn a NaN into an infinity, so its first bit of payload is set instead.
        if self.is_nan() {
            bits | 0x0040_0000
        } else {
            rounded
        }
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn upper_bits(self) -> u32 {
        u32::from(self.to_bits()) << 16
    }

    /// In the order of bytes of little-endian machines, pairs are as they are in memory.
    #[inline(always)]
    fn pairs(values: &[Self; 32]) -> [u32; 16] {
        let pairs: [u32; 16] =
            bytemuck::pod_read_unaligned(bytemuck::cast_slice(values.reinterpret_cast()));
        if cfg!(target_endian = "big") {
            return pairs.map(|pair| pair.rotate_left(16));
        }
        pairs
    }
}

/// Rounds a number.
#[inline(always)]
pub(crate) fn rounded(value: f32) -> bf16 {
    bf16::from_bits((value.upper_bits() >> 16) as u16)
}

/// Returns two rounded numbers as a pair, the first in the lower half.
#[inline(always)]
pub(super) fn pair<T: Element>(first: T, second: T) -> u32 {
    (first.upper_bits() >> 16) | (second.upper_bits() & 0xffff_0000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_agrees_with_half() {
        let patterns = (0..=u32::MAX).step_by(65_521); // a prime
        let special = [
            0f32,
            -0.0,
            f32::MAX,
            f32::MIN_POSITIVE / 2.0,
            f32::INFINITY,
            f32::NAN,
        ]
        .map(f32::to_bits);
        let ties = [0x3f80_8000, 0x3f81_8000, 0x7f80_0001, 0xffff_ffff];
        for bits in patterns.chain(special).chain(ties) {
            let value = f32::from_bits(bits);
            let expected = bf16::from_f32(value).to_bits();
            assert_eq!((value.upper_bits() >> 16) as u16, expected, "{bits:08x}");
            let packed = pair(bf16::from_bits(expected), bf16::ONE);
            assert_eq!(packed, 0x3f80_0000 | u32::from(expected));
        }
    }
}
