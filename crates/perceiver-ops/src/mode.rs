//! Whether a forward pass trains, and with which randomness.

use crate::Key;

/// Inference, or training with the key that all random choices of this pass derive from.
///
/// A module that holds several random parts gives each its own child, so that no two share a mask:
///
/// ```
/// use perceiver_ops::{Key, Mode};
///
/// let step = Mode::Training(Key::new(42).fold_in(7));
/// assert_ne!(step.child(0), step.child(1));
/// assert_eq!(Mode::Inference.child(0), Mode::Inference);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every dropout is the identity.
    Inference,
    /// Dropout is active, keyed by (seed, step) and, through [`Mode::child`], by layer.
    Training(Key),
}

impl Mode {
    /// The mode for the `number`-th part of the module at hand.
    #[must_use]
    pub const fn child(self, number: u64) -> Self {
        match self {
            Self::Inference => Self::Inference,
            Self::Training(key) => Self::Training(key.fold_in(number)),
        }
    }

    /// Whether this is a training pass.
    pub const fn is_training(self) -> bool {
        matches!(self, Self::Training(_))
    }
}
