//! Reduces the learning rate when the validation loss stops falling: Keras's `ReduceLROnPlateau`.

use serde::{Deserialize, Serialize};

/// Options of [`Plateau`]. The defaults are those of the Keras example.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlateauConfig {
    /// The factor of a reduction.
    pub factor: f64,
    /// The number of epochs without improvement before a reduction.
    pub patience: usize,
    /// The threshold of an improvement: the loss must fall by more.
    pub min_delta: f64,
    /// The number of epochs after a reduction that do not count.
    pub cooldown: usize,
    /// The lower bound of the learning rate.
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

/// The plateau schedule with its state.
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
    /// Creates a schedule before its first epoch.
    pub fn new(config: PlateauConfig) -> Self {
        Self {
            config,
            best: None,
            wait: 0,
            cooldown: 0,
        }
    }

    /// Returns the learning rate of the next epoch, given an epoch's validation loss and learning
    /// rate.
    ///
    /// As in Keras, the computation is in `f64` and the learning rate is kept in `f32`.
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
