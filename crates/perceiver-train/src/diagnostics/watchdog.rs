//! The watchdog: detects training failures early and warns once per kind, with numbers, likely
//! cause and cure.
//!
//! It only observes and never changes a step.

mod checks;
pub(crate) mod warning;

use std::collections::{BTreeSet, VecDeque};

use perceiver_model::ModelConfig;
use serde::{Deserialize, Serialize};

use crate::diagnostics::model_stats::ModelDiagnosis;
use crate::diagnostics::watchdog::warning::{Warning, WarningKind};
use crate::recipe::Recipe;

/// The number of losses and gradient norms kept.
const MEMORY: usize = 100;
/// The number of steps after the warm-up by which the loss should have moved.
const PATIENCE: u64 = 200;
/// The same at the end of an epoch after the first, for short epochs.
const PATIENCE_OF_EPOCHS: u64 = 100;
/// Thresholds of saturated attention, before training and at any time: an entropy below the first
/// value (a share of its maximum) with a standard deviation of the logits above the second. Models
/// that learn well reached 0.15 and 12, collapsed ones 0.08 and 100.
const SATURATED_AT_START: (f64, f64) = (0.5, 5.0);
const SATURATED: (f64, f64) = (0.2, 50.0);

/// The monitor of a run.
#[derive(Debug)]
pub(crate) struct Watchdog {
    model: ModelConfig,
    learning_rate: f32,
    clips: bool,
    /// The number of warm-up steps, during which the loss need not move.
    warmup: u64,
    memory: Memory,
    warnings: Vec<Warning>,
}

/// The watchdog's state. It is saved with the run, so a resumed run gets the same warnings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Memory {
    steps: u64,
    losses: VecDeque<f64>,
    norms: VecDeque<f64>,
    first_look: Option<ModelDiagnosis>,
    told: BTreeSet<WarningKind>,
}

impl Watchdog {
    pub(crate) fn new(recipe: &Recipe, steps_per_epoch: usize, memory: Memory) -> Self {
        let training = &recipe.training;
        // With a time budget there may be fewer; their number is not known yet.
        let steps = (training.epochs * steps_per_epoch) as f64;
        let per_epoch = steps_per_epoch as u64;
        let warmup = training.schedule.rising_steps(per_epoch, steps);
        Self {
            model: recipe.model.clone(),
            learning_rate: recipe.training.learning_rate,
            clips: recipe.training.clip_norm.is_some(),
            warmup: warmup as u64,
            memory,
            warnings: Vec::new(),
        }
    }

    /// Returns the warnings since the last call.
    pub(crate) fn warnings(&mut self) -> Vec<Warning> {
        std::mem::take(&mut self.warnings)
    }

    /// Returns the state to save.
    pub(crate) fn memory(&self) -> Memory {
        self.memory.clone()
    }

    /// Checks a step by its mean loss and its global gradient norm before clipping.
    pub(crate) fn step(&mut self, loss: f64, norm: f64) {
        self.memory.steps += 1;
        self.gradients(loss, norm);
        remember(&mut self.memory.losses, loss);
        remember(&mut self.memory.norms, norm);
        if self.memory.steps >= self.warmup + PATIENCE {
            self.loss();
        }
    }

    /// Checks the model at the end of an epoch.
    pub(crate) fn epoch_ended(&mut self, epoch: usize, diagnosis: &ModelDiagnosis) {
        if epoch >= 2 && self.memory.steps >= self.warmup + PATIENCE_OF_EPOCHS {
            self.loss();
            self.uniform(diagnosis);
        }
        self.check_model(diagnosis, SATURATED);
    }

    /// Checks the model before the first step.
    pub(crate) fn starts(&mut self, diagnosis: &ModelDiagnosis) {
        self.check_model(diagnosis, SATURATED_AT_START);
    }

    /// Checks the model after some steps.
    pub(crate) fn after_steps(&mut self, diagnosis: &ModelDiagnosis) {
        self.check_model(diagnosis, SATURATED);
    }

    fn check_model(&mut self, diagnosis: &ModelDiagnosis, bounds: (f64, f64)) {
        self.saturated(diagnosis, bounds);
        self.latents(diagnosis);
        if self.memory.first_look.is_none() {
            self.memory.first_look = Some(diagnosis.clone());
        }
    }

    fn add_warning(&mut self, kind: WarningKind, finding: String, cause: &str, cure: String) {
        if self.memory.told.insert(kind) {
            self.warnings.push(Warning {
                step: self.memory.steps,
                kind,
                finding,
                cause: cause.to_string(),
                cure,
            });
        }
    }
}

fn remember(values: &mut VecDeque<f64>, value: f64) {
    if values.len() == MEMORY {
        values.pop_front();
    }
    values.push_back(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics::model_stats::AttentionDiagnosis;

    fn watchdog(changes: &str) -> Watchdog {
        let recipe = Recipe::from_layers(&[("changes", changes)]);
        Watchdog::new(&recipe.unwrap(), 10, Memory::default())
    }

    fn kinds(watchdog: &mut Watchdog) -> Vec<WarningKind> {
        let warnings = watchdog.warnings();
        warnings.iter().map(|warning| warning.kind).collect()
    }

    fn diagnosis(
        entropy: f64,
        logit_deviation: f64,
        difference: f64,
        spread: f64,
    ) -> ModelDiagnosis {
        let attention = AttentionDiagnosis {
            entropy,
            logit_deviation,
            difference,
        };
        ModelDiagnosis {
            cross_attentions: vec![attention],
            self_attentions: vec![],
            latent_spread: spread,
        }
    }

    #[test]
    fn a_loss_that_stays_at_chance_is_reported_once() {
        let mut watchdog = watchdog("");
        for _ in 0..199 {
            watchdog.step(4.6, 1.0);
        }
        assert_eq!(kinds(&mut watchdog), []);
        watchdog.step(4.6, 1.0);
        let warnings = watchdog.warnings();
        assert_eq!(
            warnings[0].to_string(),
            "the mean loss of the last 50 steps is 4.600, no better than chance for 100 classes (ln 100 = 4.605); likely cause: \
             cross-attention logits that start unscaled, with too high a learning rate; fix: --set \
             model.cross_attention_scale=0 (1/sqrt(head width)), or --learning-rate 1e-4"
        );
        watchdog.step(4.6, 1.0);
        assert_eq!(kinds(&mut watchdog), []);
    }

    #[test]
    fn a_changing_loss_or_a_warmup_gives_no_warning() {
        for first in [4.7, 10.0] {
            let mut falling = watchdog("");
            for step in 0..1000 {
                falling.step(first - 0.003 * f64::from(step), 1.0);
            }
            assert_eq!(kinds(&mut falling), []);
        }
        for schedule in ["warmup_epochs = 20.0", "name = \"one-cycle\""] {
            let mut warming = watchdog(&format!("training.schedule.{schedule}"));
            for _ in 0..300 {
                warming.step(4.6, 1.0);
            }
            assert_eq!(kinds(&mut warming), [], "{schedule}");
        }
    }

    #[test]
    fn overlong_warmups_do_not_suppress_warnings() {
        let mut short = watchdog("training.epochs = 10\ntraining.schedule.warmup_epochs = 100.0");
        for _ in 0..2000 {
            short.step(4.6, 1.0);
        }
        assert_ne!(kinds(&mut short), []);
    }

    #[test]
    fn short_epochs_are_checked_from_the_second_on() {
        let mut watchdog = watchdog("");
        for _ in 0..120 {
            watchdog.step(4.7, 1.0);
        }
        let fine = diagnosis(0.8, 1.0, 0.1, 0.3);
        watchdog.epoch_ended(1, &fine);
        assert_eq!(kinds(&mut watchdog), []);
        watchdog.epoch_ended(2, &fine);
        assert_eq!(kinds(&mut watchdog), [WarningKind::StuckLoss]);
    }

    #[test]
    fn unclipped_gradients_far_above_their_median_have_exploded() {
        for (changes, expected) in [
            ("", vec![WarningKind::ExplodedGradients]),
            ("training.clip_norm = 1.0", vec![]),
        ] {
            let mut watchdog = watchdog(changes);
            watchdog.step(1.0, 1e6); // no median yet
            for _ in 0..20 {
                watchdog.step(1.0, 100.0);
                watchdog.step(1.0, 1500.0); // large, but normal here
            }
            assert_eq!(kinds(&mut watchdog), []);
            watchdog.step(1.0, 1e5);
            assert_eq!(kinds(&mut watchdog), expected);
        }
    }

    #[test]
    fn vanishing_gradients_are_reported_only_at_a_high_loss() {
        let mut watchdog = watchdog("");
        watchdog.step(1e-6, 1e-9);
        assert_eq!(kinds(&mut watchdog), []);
        watchdog.step(2.0, 1e-9);
        assert_eq!(kinds(&mut watchdog), [WarningKind::VanishedGradients]);
    }

    #[test]
    fn saturation_limits_are_stricter_at_the_start() {
        let sharp = diagnosis(0.15, 12.0, 0.6, 0.3);
        let mut at_start = watchdog("");
        at_start.starts(&sharp);
        assert_eq!(kinds(&mut at_start), [WarningKind::SaturatedAttention]);
        let mut later = watchdog("");
        later.after_steps(&sharp);
        assert_eq!(kinds(&mut later), []);
        later.after_steps(&diagnosis(0.08, 100.0, 0.5, 0.3));
        assert_eq!(kinds(&mut later), [WarningKind::SaturatedAttention]);
    }

    #[test]
    fn persistent_uniform_attention_is_reported() {
        let uniform = diagnosis(0.999, 0.01, 1e-6, 0.3);
        let mut watchdog = watchdog("");
        watchdog.starts(&uniform);
        for _ in 0..120 {
            watchdog.step(3.0, 1.0);
        }
        watchdog.epoch_ended(1, &uniform);
        assert_eq!(kinds(&mut watchdog), []);
        watchdog.epoch_ended(2, &uniform);
        assert_eq!(kinds(&mut watchdog), [WarningKind::UniformAttention]);
    }

    #[test]
    fn identical_latents_are_reported() {
        let mut watchdog = watchdog("");
        watchdog.after_steps(&diagnosis(0.7, 1.0, 1e-6, 0.3));
        watchdog.after_steps(&diagnosis(0.7, 1.0, 0.1, 1e-3));
        assert_eq!(kinds(&mut watchdog), []);
        watchdog.after_steps(&diagnosis(0.7, 1.0, 1e-6, 1e-3));
        assert_eq!(kinds(&mut watchdog), [WarningKind::EqualLatents]);
    }
}
