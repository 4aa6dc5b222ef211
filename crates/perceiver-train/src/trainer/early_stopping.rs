//! Early stopping: Keras's `EarlyStopping` with `restore_best_weights`.

use serde::{Deserialize, Serialize};

/// The decision after an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyStoppingDecision {
    /// The best epoch so far: keep its weights.
    Best,
    /// Not the best epoch: continue.
    Continue,
    /// Patience has run out: stop and restore the best weights.
    Stop,
}

/// A monitor of the validation loss that decides when to stop.
///
/// ```
/// use perceiver_train::{EarlyStopping, EarlyStoppingDecision};
///
/// let mut early_stopping = EarlyStopping::new(2);
/// let decisions = [3.0, 2.0, 2.5, 2.0].map(|loss| early_stopping.epoch_ended(loss));
/// use EarlyStoppingDecision::{Best, Continue, Stop};
/// assert_eq!(decisions, [Best, Best, Continue, Stop]);
/// assert_eq!(early_stopping.best_epoch(), Some(1));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlyStopping {
    patience: usize,
    epochs: usize,
    wait: usize,
    best_epoch: Option<usize>,
    /// The lowest loss as bits, since JSON has no infinity.
    best_bits: u64,
}

impl EarlyStopping {
    /// Creates a monitor that stops after `patience` epochs without improvement.
    pub fn new(patience: usize) -> Self {
        Self {
            patience,
            epochs: 0,
            wait: 0,
            best_epoch: None,
            best_bits: f64::INFINITY.to_bits(),
        }
    }

    /// Takes the validation loss of the next epoch and returns the decision.
    pub fn epoch_ended(&mut self, val_loss: f64) -> EarlyStoppingDecision {
        let epoch = self.epochs;
        self.epochs += 1;
        self.wait += 1;
        if val_loss < f64::from_bits(self.best_bits) {
            self.best_bits = val_loss.to_bits();
            self.best_epoch = Some(epoch);
            self.wait = 0;
            return EarlyStoppingDecision::Best;
        }
        // The first weights are the best so far even if their loss is NaN.
        if self.best_epoch.is_none() {
            self.best_epoch = Some(epoch);
            return EarlyStoppingDecision::Best;
        }
        if self.wait >= self.patience {
            EarlyStoppingDecision::Stop
        } else {
            EarlyStoppingDecision::Continue
        }
    }

    /// Resets the count of epochs without improvement, but not the best epoch.
    pub fn wait_anew(&mut self) {
        self.wait = 0;
    }

    /// Returns the best epoch, from 0.
    pub fn best_epoch(&self) -> Option<usize> {
        self.best_epoch
    }
}
