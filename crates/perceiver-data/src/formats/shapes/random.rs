//! Sequential random numbers of one image.

use perceiver_ops::RngKey;

/// A sequence of random numbers from one key.
pub(super) struct Random {
    key: RngKey,
    drawn: u64,
}

impl Random {
    pub(super) fn new(key: RngKey) -> Self {
        Self { key, drawn: 0 }
    }

    fn bits(&mut self) -> u64 {
        self.drawn += 1;
        self.key.bits(self.drawn)
    }

    pub(super) fn flip(&mut self) -> bool {
        self.bits() >> 63 == 1
    }

    /// Draws a uniform number from `[low, high)`.
    pub(super) fn within(&mut self, low: f32, high: f32) -> f32 {
        let unit = (self.bits() >> 40) as f32 / (1_u64 << 24) as f32;
        low + (high - low) * unit
    }
}
