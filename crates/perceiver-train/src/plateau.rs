//! Lower the learning rate when the validation loss no longer falls: Keras's `ReduceLROnPlateau`.

use serde::{Deserialize, Serialize};

/// When and by how much to lower the learning rate. The defaults are the Keras example's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlateauConfig {
    /// The learning rate is multiplied by this.
    pub factor: f64,
    /// Epochs without improvement after which it is.
    pub patience: usize,
    /// An improvement is larger than this.
    pub min_delta: f64,
    /// Epochs after a reduction in which none are counted.
    pub cooldown: usize,
    /// The learning rate never falls below this.
    pub min_learning_rate: f64,
}

impl Default for PlateauConfig {
    fn default() -> Self {
        Self {
            factor: 0.2,
            patience: 3,
            min_delta: 1e-4,
            cooldown: 0,
            min_learning_rate: 0.0,
        }
    }
}

/// The schedule and what it remembers.
///
/// ```
/// use perceiver_train::{Plateau, PlateauConfig};
///
/// let mut plateau = Plateau::new(PlateauConfig { patience: 2, factor: 0.5, ..Default::default() });
/// let rates: Vec<f32> = [1.0, 0.9, 0.9, 0.9].map(|loss| plateau.epoch_ended(loss, 0.1)).into();
/// assert_eq!(rates, [0.1, 0.1, 0.1, 0.05]);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plateau {
    config: PlateauConfig,
    /// None stands for infinity, which JSON lacks.
    best: Option<f64>,
    wait: usize,
    cooldown: usize,
}

impl Plateau {
    /// A schedule that has seen nothing.
    pub fn new(config: PlateauConfig) -> Self {
        Self {
            config,
            best: None,
            wait: 0,
            cooldown: 0,
        }
    }

    /// Takes an epoch's validation loss and the learning rate it had, and returns the next epoch's.
    ///
    /// Keras computes in `f64` and keeps the learning rate in `f32`, and so does this.
    pub fn epoch_ended(&mut self, val_loss: f64, learning_rate: f32) -> f32 {
        if self.cooldown > 0 {
            self.cooldown -= 1;
            self.wait = 0;
        }
        if val_loss < self.best.unwrap_or(f64::INFINITY) - self.config.min_delta {
            self.best = Some(val_loss);
            self.wait = 0;
            return learning_rate;
        }
        if self.cooldown > 0 {
            return learning_rate;
        }
        self.wait += 1;
        let old = f64::from(learning_rate);
        if self.wait < self.config.patience || old <= self.config.min_learning_rate {
            return learning_rate;
        }
        self.cooldown = self.config.cooldown;
        self.wait = 0;
        (old * self.config.factor).max(self.config.min_learning_rate) as f32
    }
}
