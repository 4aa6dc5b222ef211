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
    /// The same for a part of a batch: its samples have the masks that they have in the whole batch.
    TrainingPart {
        /// The key of the whole batch.
        key: Key,
        /// Where in the batch the part begins.
        start: usize,
    },
}

impl Mode {
    /// The mode for the `number`-th part of the module at hand.
    #[must_use]
    pub const fn child(self, number: u64) -> Self {
        match self {
            Self::Inference => Self::Inference,
            Self::Training(key) => Self::Training(key.fold_in(number)),
            Self::TrainingPart { key, start } => Self::TrainingPart {
                key: key.fold_in(number),
                start,
            },
        }
    }

    /// The mode for a part of the batch that this one is for, the samples from `start` on.
    #[must_use]
    pub const fn part(self, start: usize) -> Self {
        match self {
            Self::Training(key) if start > 0 => Self::TrainingPart { key, start },
            Self::TrainingPart { key, start: first } => Self::TrainingPart {
                key,
                start: first + start,
            },
            other => other,
        }
    }

    /// Whether this is a training pass.
    pub const fn is_training(self) -> bool {
        !matches!(self, Self::Inference)
    }

    /// The key of a mask that takes `count` random numbers a sample; none where nothing is random.
    pub(crate) const fn mask_key(self, count: usize) -> Option<Key> {
        match self {
            Self::Inference => None,
            Self::Training(key) => Some(key),
            Self::TrainingPart { key, start } => Some(key.skip((start * count) as u64)),
        }
    }
}
