//! Looks out for what training goes wrong by, and says so while there is time: once a kind, in numbers, with the likely cause
//! and what cures it.
//!
//! Only watches: no step of a run depends on it.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;

use perceiver_model::PerceiverConfig;
use serde::{Deserialize, Serialize};

use crate::diagnosis::{AttentionDiagnosis, ModelDiagnosis};
use crate::recipe::Recipe;

/// Losses and gradient norms that are remembered.
const MEMORY: usize = 100;
/// Steps after the warm-up by which a loss should have moved.
const PATIENCE: u64 = 200;
/// The same at the end of an epoch after the first, where epochs are short.
const PATIENCE_OF_EPOCHS: u64 = 100;
/// How far below chance, in nats, a loss has moved, and by how much one above it falls that is on its way, from one half of what is
/// remembered to the other.
const MOVED: f64 = 0.02;
const FALLS: f64 = 0.1;
/// Norms of all gradients together that have vanished or exploded, and how far above its median one is then.
const VANISHED: f64 = 1e-7;
const EXPLODED: f64 = 1e3;
const FAR_ABOVE: f64 = 20.0;
/// Norms that make a median.
const ENOUGH: usize = 10;
/// What no attention that has learned nothing yet should have, and none at all: a share of the most entropy below the first at
/// a standard deviation of the logits above the second. Models that learn well were seen at 0.15 and 12, collapsed ones at 0.08 and
/// 100.
const SATURATED_AT_START: (f64, f64) = (0.5, 5.0);
const SATURATED: (f64, f64) = (0.2, 50.0);
/// The share of an attention that looks everywhere alike.
const UNIFORM: f64 = 0.99;
/// A difference of entropy that is none.
const SAME: f64 = 1e-4;
/// The spread of latents that are all the same.
const NO_SPREAD: f64 = 0.01;

/// Something that goes wrong in a run, which goes on all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// Steps of the run that were done when it was found.
    pub step: u64,
    /// What.
    pub kind: WarningKind,
    /// What was found, in numbers.
    pub finding: String,
    /// What it most likely comes from.
    pub cause: String,
    /// The flags that change that.
    pub cure: String,
}

/// What can go wrong; each is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarningKind {
    /// The loss stays at that of a guess.
    StuckLoss,
    /// Gradients are all but zero.
    VanishedGradients,
    /// Gradients are far larger than they were.
    ExplodedGradients,
    /// An attention looks at single tokens.
    SaturatedAttention,
    /// A cross attention looks everywhere alike and has not learned to choose.
    UniformAttention,
    /// All latents are the same.
    EqualLatents,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            finding,
            cause,
            cure,
            ..
        } = self;
        write!(f, "{finding}; likely cause: {cause}; cure: {cure}")
    }
}

/// Watches a run.
#[derive(Debug)]
pub(crate) struct Watchdog {
    model: PerceiverConfig,
    learning_rate: f32,
    clips: bool,
    /// Steps in which nothing has to move.
    warmup: u64,
    memory: Memory,
    warnings: Vec<Warning>,
}

/// What is remembered of a run so far. It is saved with the run, so that one that was interrupted is warned as another is.
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
        // By the clock there may be fewer; nobody knows how many yet.
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

    /// The warnings since the last call.
    pub(crate) fn warnings(&mut self) -> Vec<Warning> {
        std::mem::take(&mut self.warnings)
    }

    /// What to go on with.
    pub(crate) fn memory(&self) -> Memory {
        self.memory.clone()
    }

    /// A step with this mean loss and this norm of all gradients together, before they are clipped.
    pub(crate) fn step(&mut self, loss: f64, norm: f64) {
        self.memory.steps += 1;
        self.gradients(loss, norm);
        remember(&mut self.memory.losses, loss);
        remember(&mut self.memory.norms, norm);
        if self.memory.steps >= self.warmup + PATIENCE {
            self.loss();
        }
    }

    /// An epoch has ended, after which the model looks like this.
    pub(crate) fn epoch_ended(&mut self, epoch: usize, look: &ModelDiagnosis) {
        if epoch >= 2 && self.memory.steps >= self.warmup + PATIENCE_OF_EPOCHS {
            self.loss();
            self.uniform(look);
        }
        self.look(look, SATURATED);
    }

    /// The model looks like this before the first step.
    pub(crate) fn starts(&mut self, look: &ModelDiagnosis) {
        self.look(look, SATURATED_AT_START);
    }

    /// The model looks like this after some steps.
    pub(crate) fn goes_on(&mut self, look: &ModelDiagnosis) {
        self.look(look, SATURATED);
    }

    fn look(&mut self, look: &ModelDiagnosis, bounds: (f64, f64)) {
        self.saturated(look, bounds);
        self.latents(look);
        if self.memory.first_look.is_none() {
            self.memory.first_look = Some(look.clone());
        }
    }

    fn tell(&mut self, kind: WarningKind, finding: String, cause: &str, cure: String) {
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

    fn slower(&self) -> String {
        format!("--learning-rate {:.0e}", self.learning_rate / 10.0)
    }

    fn loss(&mut self) {
        let last = self.memory.losses.len() / 2;
        let mean_from = |start: usize| {
            let losses = self.memory.losses.iter().rev().skip(start).take(last);
            losses.sum::<f64>() / last as f64
        };
        let (mean, before) = (mean_from(0), mean_from(last));
        let classes = self.model.num_classes();
        let chance = (classes as f64).ln();
        if mean < chance - MOVED || mean < before - FALLS {
            return;
        }
        let finding = format!(
            "the loss of the last {last} steps is {mean:.3}, no better than a guess among {classes} classes, ln {classes} = {chance:.3}"
        );
        let (cause, cure) = if self.is_unscaled() {
            (
                "cross attention that starts unscaled, at too high a learning rate",
                self.scaled(),
            )
        } else {
            (
                "a learning rate that is too high, or far too low",
                format!(
                    "{}, or --set training.schedule.warmup_epochs=1",
                    self.slower()
                ),
            )
        };
        self.tell(WarningKind::StuckLoss, finding, cause, cure);
    }

    fn gradients(&mut self, loss: f64, norm: f64) {
        // Gradients of what is learned by heart vanish as they should.
        if norm < VANISHED && loss > 0.1 {
            let finding = format!("the gradients have vanished: their norm is {norm:.1e}");
            let cause =
                "activations or attention that are saturated, after steps that were too large";
            let cure = format!("{}, or --set training.clip_norm=1", self.slower());
            self.tell(WarningKind::VanishedGradients, finding, cause, cure);
        }
        if self.clips {
            return; // single steps of any size do no harm
        }
        let median = median(&self.memory.norms);
        if norm > EXPLODED && median.is_some_and(|median| norm > FAR_ABOVE * median) {
            let median = median.unwrap_or_default();
            let finding = format!(
                "the gradients have exploded: their norm is {norm:.1e}, where the median of the last {} was {median:.1e}",
                self.memory.norms.len()
            );
            let cause = "steps that are too large";
            let cure = format!("--set training.clip_norm=1, or {}", self.slower());
            self.tell(WarningKind::ExplodedGradients, finding, cause, cure);
        }
    }

    fn saturated(&mut self, look: &ModelDiagnosis, (share, deviation): (f64, f64)) {
        let of_iterations = look.self_attentions.iter().enumerate();
        let of_blocks = of_iterations.flat_map(|(iteration, blocks)| {
            let blocks = blocks.iter().enumerate();
            blocks.map(move |(block, attention)| {
                let place = format!(
                    "self-attention {} of iteration {}",
                    block + 1,
                    iteration + 1
                );
                (place, false, *attention)
            })
        });
        let crossing = look.cross_attentions.iter().enumerate();
        let mut all = crossing
            .map(|(iteration, attention)| {
                let place = format!("the cross attention of iteration {}", iteration + 1);
                (place, true, *attention)
            })
            .chain(of_blocks);
        let found = all.find(|(_, _, attention)| {
            attention.entropy < share && attention.logit_deviation > deviation
        });
        let Some((place, crosses, attention)) = found else {
            return;
        };
        let AttentionDiagnosis {
            entropy,
            logit_deviation,
            ..
        } = attention;
        let finding = format!(
            "{place} is saturated, a latent looks at few tokens and hardly learns to look elsewhere: the logits' standard deviation \
             is {logit_deviation:.1}, the entropy {:.0}% of the most",
            100.0 * entropy
        );
        let (cause, cure) = if crosses && self.is_unscaled() {
            (
                format!(
                    "logits that start unscaled: sums of {} products, by a factor of {}",
                    self.model.cross_head_width(),
                    self.model.first_cross_scale()
                ),
                self.scaled(),
            )
        } else {
            (
                "steps that were too large".to_string(),
                format!("{}, or --set training.clip_norm=1", self.slower()),
            )
        };
        self.tell(WarningKind::SaturatedAttention, finding, &cause, cure);
    }

    fn uniform(&mut self, look: &ModelDiagnosis) {
        let Some(first) = &self.memory.first_look else {
            return;
        };
        let mut pairs = look.cross_attentions.iter().zip(&first.cross_attentions);
        let found = pairs.position(|(now, first)| {
            now.entropy > UNIFORM
                && now.difference < SAME
                && (now.entropy - first.entropy).abs() < SAME
        });
        let Some(iteration) = found else {
            return;
        };
        let AttentionDiagnosis {
            entropy,
            logit_deviation,
            ..
        } = look.cross_attentions[iteration];
        let finding = format!(
            "the cross attention of iteration {} looks everywhere alike, as at the start: the entropy is {:.2}% of the most, the \
             logits' standard deviation is {logit_deviation:.1e}",
            iteration + 1,
            100.0 * entropy
        );
        let cause = "logits that are scaled too small, or a learning rate that is too low";
        let cure = format!(
            "--set model.cross_attention_scale=0 (1/sqrt of a head's width), or --learning-rate {:.0e}",
            10.0 * self.learning_rate
        );
        self.tell(WarningKind::UniformAttention, finding, cause, cure);
    }

    fn latents(&mut self, look: &ModelDiagnosis) {
        let differs = |attention: &AttentionDiagnosis| attention.difference >= SAME;
        if look.latent_spread >= NO_SPREAD || look.cross_attentions.last().is_none_or(differs) {
            return;
        }
        let finding = format!(
            "all latents are the same: they differ by {:.1e} of their size, and look at the same tokens",
            look.latent_spread
        );
        let cause = "latents that start too much alike, or steps that were too large";
        let cure = format!(
            "{}, --set training.clip_norm=1, or a larger model.latent_deviation",
            self.slower()
        );
        self.tell(WarningKind::EqualLatents, finding, cause, cure);
    }

    /// Whether cross attention starts with logits that are far larger than usual.
    fn is_unscaled(&self) -> bool {
        let usual = 1.0 / (self.model.cross_head_width() as f64).sqrt();
        self.model.first_cross_scale() > 3.0 * usual
    }

    fn scaled(&self) -> String {
        format!(
            "--set model.cross_attention_scale=0 (1/sqrt of a head's width), or {}",
            self.slower()
        )
    }
}

fn remember(values: &mut VecDeque<f64>, value: f64) {
    if values.len() == MEMORY {
        values.pop_front();
    }
    values.push_back(value);
}

fn median(values: &VecDeque<f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    (sorted.len() >= ENOUGH).then(|| sorted[sorted.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watchdog(changes: &str) -> Watchdog {
        let recipe = Recipe::from_layers(&[("changes", toml::from_str(changes).unwrap())]);
        Watchdog::new(&recipe.unwrap(), 10, Memory::default())
    }

    fn kinds(watchdog: &mut Watchdog) -> Vec<WarningKind> {
        let warnings = watchdog.warnings();
        warnings.iter().map(|warning| warning.kind).collect()
    }

    fn look(entropy: f64, logit_deviation: f64, difference: f64, spread: f64) -> ModelDiagnosis {
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
    fn a_loss_that_stays_at_chance_is_told_once() {
        let mut watchdog = watchdog("");
        for _ in 0..199 {
            watchdog.step(4.6, 1.0);
        }
        assert_eq!(kinds(&mut watchdog), []);
        watchdog.step(4.6, 1.0);
        let warnings = watchdog.warnings();
        assert_eq!(
            warnings[0].to_string(),
            "the loss of the last 50 steps is 4.600, no better than a guess among 100 classes, ln 100 = 4.605; likely cause: \
             cross attention that starts unscaled, at too high a learning rate; cure: --set model.cross_attention_scale=0 \
             (1/sqrt of a head's width), or --learning-rate 1e-4"
        );
        watchdog.step(4.6, 1.0);
        assert_eq!(kinds(&mut watchdog), []);
    }

    #[test]
    fn a_loss_that_moves_or_is_warming_up_is_fine() {
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
    fn a_warmup_longer_than_the_run_allows_hides_nothing() {
        let mut short = watchdog("training.epochs = 10\ntraining.schedule.warmup_epochs = 100.0");
        for _ in 0..2000 {
            short.step(4.6, 1.0);
        }
        assert_ne!(kinds(&mut short), []);
    }

    #[test]
    fn short_epochs_are_judged_from_the_second_on() {
        let mut watchdog = watchdog("");
        for _ in 0..120 {
            watchdog.step(4.7, 1.0);
        }
        let fine = look(0.8, 1.0, 0.1, 0.3);
        watchdog.epoch_ended(1, &fine);
        assert_eq!(kinds(&mut watchdog), []);
        watchdog.epoch_ended(2, &fine);
        assert_eq!(kinds(&mut watchdog), [WarningKind::StuckLoss]);
    }

    #[test]
    fn gradients_far_above_their_median_have_exploded_where_they_are_not_clipped() {
        for (changes, expected) in [
            ("", vec![WarningKind::ExplodedGradients]),
            ("training.clip_norm = 1.0", vec![]),
        ] {
            let mut watchdog = watchdog(changes);
            watchdog.step(1.0, 1e6); // no median yet
            for _ in 0..20 {
                watchdog.step(1.0, 100.0);
                watchdog.step(1.0, 1500.0); // large, but as usual here
            }
            assert_eq!(kinds(&mut watchdog), []);
            watchdog.step(1.0, 1e5);
            assert_eq!(kinds(&mut watchdog), expected);
        }
    }

    #[test]
    fn gradients_vanish_only_where_there_is_something_to_learn() {
        let mut watchdog = watchdog("");
        watchdog.step(1e-6, 1e-9);
        assert_eq!(kinds(&mut watchdog), []);
        watchdog.step(2.0, 1e-9);
        assert_eq!(kinds(&mut watchdog), [WarningKind::VanishedGradients]);
    }

    #[test]
    fn what_is_saturated_at_the_start_may_be_what_was_learned_later() {
        let sharp = look(0.15, 12.0, 0.6, 0.3);
        let mut at_start = watchdog("");
        at_start.starts(&sharp);
        assert_eq!(kinds(&mut at_start), [WarningKind::SaturatedAttention]);
        let mut later = watchdog("");
        later.goes_on(&sharp);
        assert_eq!(kinds(&mut later), []);
        later.goes_on(&look(0.08, 100.0, 0.5, 0.3));
        assert_eq!(kinds(&mut later), [WarningKind::SaturatedAttention]);
    }

    #[test]
    fn uniform_attention_is_told_when_it_stays_so() {
        let uniform = look(0.999, 0.01, 1e-6, 0.3);
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
    fn latents_that_are_all_the_same_are_told() {
        let mut watchdog = watchdog("");
        watchdog.goes_on(&look(0.7, 1.0, 1e-6, 0.3));
        watchdog.goes_on(&look(0.7, 1.0, 0.1, 1e-3));
        assert_eq!(kinds(&mut watchdog), []);
        watchdog.goes_on(&look(0.7, 1.0, 1e-6, 1e-3));
        assert_eq!(kinds(&mut watchdog), [WarningKind::EqualLatents]);
    }
}
