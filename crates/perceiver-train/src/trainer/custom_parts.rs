//! Parts of training that a program brings itself: optimizer, loss and learning-rate schedule.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::error::{Result, TrainError};
use crate::lr_schedule::Position;
use crate::optim::{Optimizer, OptimizerState};
use crate::step::loss::CustomLoss;
use crate::trainer::Trainer;

/// The parts that replace those of the recipe.
#[derive(Default)]
pub(crate) struct CustomParts {
    /// The name of each part, by its kind: `loss = "focal"`.
    names: BTreeMap<String, String>,
    pub(crate) loss: Option<Box<CustomLoss>>,
    pub(crate) schedule: Option<Box<dyn Fn(Position) -> f64 + Send>>,
    /// The saved state of the program's own optimizer, until it is set.
    pub(crate) optimizer_state: Option<OptimizerState>,
}

impl CustomParts {
    fn add(&mut self, kind: &str, name: &str) {
        self.names.insert(kind.to_string(), name.to_string());
    }

    /// Returns whether the optimizer is the program's own.
    pub(crate) fn has_optimizer(&self) -> bool {
        self.names.contains_key("optimizer")
    }
}

impl Trainer {
    /// Trains with an optimizer of the program's own, in place of that of the recipe. Gradient
    /// clipping, the learning rate and its schedule apply to it. Its state is saved with the run;
    /// a resumed trainer needs the same optimizer again, by this call. `name` is compared then.
    #[must_use]
    pub fn with_optimizer(mut self, name: &str, mut optimizer: impl Optimizer + 'static) -> Self {
        self.parts.add("optimizer", name);
        if let Some(state) = self.parts.optimizer_state.take() {
            optimizer.restore(state);
        }
        self.optimizer = Box::new(optimizer);
        self
    }

    /// Trains with a loss of the program's own, in place of cross-entropy. It gets logits
    /// `[batch, classes]` and target probabilities `[batch, classes]`, with label smoothing and
    /// mixing, and returns the mean over the batch, a scalar in candle's graph. Validation and test
    /// report cross-entropy as always. A resumed trainer needs it again. The recipe's
    /// `training.class_weights` must be `none`: [`Trainer::fit`] is an error otherwise.
    ///
    /// ```no_run
    /// # fn with_brier_loss(trainer: perceiver_train::Trainer) -> perceiver_train::Trainer {
    /// trainer.with_loss("brier", |logits, targets| {
    ///     let probabilities = perceiver_ops::softmax(logits)?;
    ///     (probabilities - targets)?.sqr()?.sum(1)?.mean_all()
    /// })
    /// # }
    /// ```
    #[must_use]
    pub fn with_loss(
        mut self,
        name: &str,
        loss: impl Fn(&Tensor, &Tensor) -> candle_core::Result<Tensor> + Send + Sync + 'static,
    ) -> Self {
        self.parts.add("loss", name);
        self.parts.loss = Some(Box::new(loss));
        self
    }

    /// Trains with a learning-rate schedule of the program's own: the factor on the peak learning
    /// rate of each step. A resumed trainer needs it again.
    ///
    /// ```no_run
    /// # fn with_step_decay(trainer: perceiver_train::Trainer) -> perceiver_train::Trainer {
    /// trainer.with_schedule("tenth every 10 epochs", |position| {
    ///     0.1f64.powi((position.step / position.steps_per_epoch / 10) as i32)
    /// })
    /// # }
    /// ```
    #[must_use]
    pub fn with_schedule(
        mut self,
        name: &str,
        schedule: impl Fn(Position) -> f64 + Send + 'static,
    ) -> Self {
        self.parts.add("schedule", name);
        self.parts.schedule = Some(Box::new(schedule));
        self
    }

    /// Checks that the classes have no weights if the loss is the program's own, which would not
    /// use them.
    fn require_no_weights_beside_own_loss(&self) -> Result<()> {
        match &self.parts.loss {
            Some(_) if self.class_weights.is_some() => Err(TrainError::Recipe {
                name: "of this run".to_string(),
                finding: "training.class_weights: expected \"none\" with a loss of the program's own \
                          (Trainer::with_loss), found \"balanced\"; weight the loss in that function"
                    .to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// Checks that a resumed run has the parts of its own that it began with, and records them.
    pub(super) fn require_same_parts(&mut self) -> Result<()> {
        self.require_no_weights_beside_own_loss()?;
        let names = &self.parts.names;
        if self.progress.steps > 0 && self.progress.parts != *names {
            let list = |names: &BTreeMap<String, String>| {
                let parts: Vec<String> = names
                    .iter()
                    .map(|(kind, name)| format!("{kind} {name:?}"))
                    .collect();
                if parts.is_empty() {
                    return "none".to_string();
                }
                parts.join(", ")
            };
            return Err(TrainError::CustomParts {
                expected: list(&self.progress.parts),
                found: list(names),
            });
        }
        self.progress.parts.clone_from(names);
        Ok(())
    }
}
