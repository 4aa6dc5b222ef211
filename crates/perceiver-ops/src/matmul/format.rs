//! How operands are packed: the number format, and the sizes of tiles, panels and blocks.

/// What a packed value, a unit, is.
///
/// It has 32 bits: two bf16 numbers next to each other along the inner dimension, since all
/// instructions for bf16 multiply pairs, or one `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // Only x86-64 has a kernel for `f32`.
pub(crate) enum Format {
    #[default]
    Bf16Pairs,
    F32,
}

/// Most values of a block of the inner dimension, in either format. A panel of columns (18 KB) and
/// the rows of a tile (7 KB) fit the first-level cache together. The model's width of 256 and a bias
/// are one block.
pub(super) const DEPTH: usize = 288;

/// Number of pairs of bf16 numbers from one packed row to the next, and the most that a block has.
pub(super) const PAIRS: usize = DEPTH / 2;

/// Number of columns of a tile of bf16 numbers.
pub(super) const BF16_COLUMNS: usize = 32;

/// Number of columns of a tile of `f32` numbers.
pub(super) const F32_COLUMNS: usize = 16;

impl Format {
    /// Returns the number of values in a unit.
    pub(super) const fn values(self) -> usize {
        match self {
            Self::Bf16Pairs => 2,
            Self::F32 => 1,
        }
    }

    /// Returns the number of units that hold `depth` values.
    pub(super) const fn units(self, depth: usize) -> usize {
        depth.div_ceil(self.values())
    }

    /// Returns the number of columns of a tile, and of a panel of packed columns.
    pub(super) const fn columns(self) -> usize {
        match self {
            Self::Bf16Pairs => BF16_COLUMNS,
            Self::F32 => F32_COLUMNS,
        }
    }

    /// Returns the number of units from one packed row to the next, and the most that a block has.
    pub(super) const fn line(self) -> usize {
        self.units(DEPTH)
    }
}
