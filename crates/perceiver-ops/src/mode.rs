//! The mode of a forward pass: training with a dropout key, or inference.

use crate::RngKey;

/// Inference, or training with a key from which all random choices of the pass derive.
///
/// A module with several random parts gives each its own child mode, so that no two share a mask:
///
/// ```
/// use perceiver_ops::{RngKey, Mode};
///
/// let step = Mode::Training(RngKey::new(42).fold_in(7));
/// assert_ne!(step.child(0), step.child(1));
/// assert_eq!(Mode::Inference.child(0), Mode::Inference);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Inference: every dropout is the identity.
    Inference,
    /// Training: dropout is active, keyed by (seed, step) and, through [`Mode::child`], by layer.
    Training(RngKey),
    /// Training on a part of a batch, whose samples have the same masks as in the whole batch.
    TrainingPart {
        /// The key of the whole batch.
        key: RngKey,
        /// Index of the part's first sample in the batch.
        start: usize,
    },
}

impl Mode {
    /// Returns the mode for the `number`-th part of a module.
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

    /// Returns the mode for a part of the batch, the samples from `start` on.
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

    /// Returns whether this is a training pass.
    pub const fn is_training(self) -> bool {
        !matches!(self, Self::Inference)
    }

    /// Returns the key of a mask that uses `count` random numbers per sample; `None` in inference.
    pub(crate) const fn mask_key(self, count: usize) -> Option<RngKey> {
        match self {
            Self::Inference => None,
            Self::Training(key) => Some(key),
            Self::TrainingPart { key, start } => Some(key.skip((start * count) as u64)),
        }
    }
}
