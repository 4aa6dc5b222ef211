//! Stop when the validation loss has not fallen for long, and remember the best epoch: Keras's `EarlyStopping` with
//! `restore_best_weights`.

use serde::{Deserialize, Serialize};

/// What an epoch means for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The best epoch so far: keep its weights.
    Best,
    /// Not the best, but go on.
    Continue,
    /// Patience is at an end: stop and go back to the best weights.
    Stop,
}

/// Watches the validation loss.
///
/// ```
/// use perceiver_train::{EarlyStopping, Verdict};
///
/// let mut early_stopping = EarlyStopping::new(2);
/// let verdicts = [3.0, 2.0, 2.5, 2.0].map(|loss| early_stopping.epoch_ended(loss));
/// assert_eq!(verdicts, [Verdict::Best, Verdict::Best, Verdict::Continue, Verdict::Stop]);
/// assert_eq!(early_stopping.best_epoch(), Some(1));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlyStopping {
    patience: usize,
    epochs: usize,
    wait: usize,
    best_epoch: Option<usize>,
    /// The bits of the lowest loss, since JSON has no infinity.
    best_bits: u64,
}

impl EarlyStopping {
    /// Stops after `patience` epochs without improvement.
    pub fn new(patience: usize) -> Self {
        Self {
            patience,
            epochs: 0,
            wait: 0,
            best_epoch: None,
            best_bits: f64::INFINITY.to_bits(),
        }
    }

    /// Takes the next epoch's validation loss.
    pub fn epoch_ended(&mut self, val_loss: f64) -> Verdict {
        let epoch = self.epochs;
        self.epochs += 1;
        self.wait += 1;
        if val_loss < f64::from_bits(self.best_bits) {
            self.best_bits = val_loss.to_bits();
            self.best_epoch = Some(epoch);
            self.wait = 0;
            return Verdict::Best;
        }
        // The first weights are the best there are even when their loss is NaN.
        if self.best_epoch.is_none() {
            self.best_epoch = Some(epoch);
            return Verdict::Best;
        }
        if self.wait >= self.patience {
            Verdict::Stop
        } else {
            Verdict::Continue
        }
    }

    /// Counts the epochs without improvement anew; the best stays the best.
    pub fn wait_anew(&mut self) {
        self.wait = 0;
    }

    /// The best epoch, from 0.
    pub fn best_epoch(&self) -> Option<usize> {
        self.best_epoch
    }
}
