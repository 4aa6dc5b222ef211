//! Random numbers for one picture, drawn one after another from its key.

use perceiver_ops::Key;

/// Draws in sequence from one key.
pub(super) struct Random {
    key: Key,
    drawn: u64,
}

impl Random {
    pub(super) fn new(key: Key) -> Self {
        Self { key, drawn: 0 }
    }

    fn bits(&mut self) -> u64 {
        self.drawn += 1;
        self.key.bits(self.drawn)
    }

    pub(super) fn flip(&mut self) -> bool {
        self.bits() >> 63 == 1
    }

    /// Uniform in `[low, high)`.
    pub(super) fn within(&mut self, low: f32, high: f32) -> f32 {
        let unit = (self.bits() >> 40) as f32 / (1_u64 << 24) as f32;
        low + (high - low) * unit
    }
}
