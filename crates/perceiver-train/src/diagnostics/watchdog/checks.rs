//! The watchdog's checks: loss, gradients, attention and latents.

use std::collections::VecDeque;

use perceiver_model::{Architecture, ModelConfig, PerceiverConfig};

use crate::diagnostics::model_stats::{AttentionDiagnosis, ModelDiagnosis};
use crate::diagnostics::watchdog::Watchdog;
use crate::diagnostics::watchdog::warning::WarningKind;

/// Thresholds of a moving loss, in nats: its mean is this far below chance, or falls this much from
/// the older half of the kept losses to the newer.
const MOVED: f64 = 0.02;
const FALLS: f64 = 0.1;
/// Thresholds of the global gradient norm: vanished, exploded, and the multiple of its median that
/// an exploded norm exceeds.
const VANISHED: f64 = 1e-7;
const EXPLODED: f64 = 1e3;
const FAR_ABOVE: f64 = 20.0;
/// The minimum number of norms for a median.
const ENOUGH: usize = 10;
/// The entropy, as a share of its maximum, from which attention counts as uniform.
const UNIFORM: f64 = 0.99;
/// The difference of entropy below which queries count as equal.
const SAME: f64 = 1e-4;
/// The spread below which latents count as equal.
const NO_SPREAD: f64 = 0.01;

impl Watchdog {
    fn slower(&self) -> String {
        format!("--learning-rate {:.0e}", self.learning_rate / 10.0)
    }

    pub(super) fn loss(&mut self) {
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
            "the mean loss of the last {last} steps is {mean:.3}, no better than chance for {classes} classes (ln {classes} = {chance:.3})"
        );
        let (cause, cure) = if self.unscaled().is_some() {
            (
                "cross-attention logits that start unscaled, with too high a learning rate",
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
        self.add_warning(WarningKind::StuckLoss, finding, cause, cure);
    }

    pub(super) fn gradients(&mut self, loss: f64, norm: f64) {
        // Gradients of memorized samples vanish as they should.
        if norm < VANISHED && loss > 0.1 {
            let finding = format!("vanished gradients: their global norm is {norm:.1e}");
            let cause = "saturated activations or attention, after steps that were too large";
            let cure = format!("{}, or --set training.clip_norm=1", self.slower());
            self.add_warning(WarningKind::VanishedGradients, finding, cause, cure);
        }
        if self.clips {
            return; // with clipping, large single steps do no harm
        }
        let median = median(&self.memory.norms);
        if norm > EXPLODED && median.is_some_and(|median| norm > FAR_ABOVE * median) {
            let median = median.unwrap_or_default();
            let finding = format!(
                "exploded gradients: their global norm is {norm:.1e}, the median of the last {} steps {median:.1e}",
                self.memory.norms.len()
            );
            let cause = "steps that are too large";
            let cure = format!("--set training.clip_norm=1, or {}", self.slower());
            self.add_warning(WarningKind::ExplodedGradients, finding, cause, cure);
        }
    }

    pub(super) fn saturated(&mut self, diagnosis: &ModelDiagnosis, (share, deviation): (f64, f64)) {
        let of_iterations = diagnosis.self_attentions.iter().enumerate();
        let of_blocks = of_iterations.flat_map(|(iteration, blocks)| {
            let blocks = blocks.iter().enumerate();
            blocks.map(move |(block, attention)| {
                let layer = format!(
                    "the self-attention of block {} in iteration {}",
                    block + 1,
                    iteration + 1
                );
                (layer, false, *attention)
            })
        });
        let crossing = diagnosis.cross_attentions.iter().enumerate();
        let mut all = crossing
            .map(|(iteration, attention)| {
                let layer = format!("the cross-attention of iteration {}", iteration + 1);
                (layer, true, *attention)
            })
            .chain(of_blocks);
        let saturated = all.find(|(_, _, attention)| {
            attention.entropy < share && attention.logit_deviation > deviation
        });
        let Some((layer, crosses, attention)) = saturated else {
            return;
        };
        let AttentionDiagnosis {
            entropy,
            logit_deviation,
            ..
        } = attention;
        let finding = format!(
            "{layer} is saturated, a latent attends to few tokens and hardly learns to attend to others: the logits' standard \
             deviation is {logit_deviation:.1}, the entropy {:.0}% of its maximum",
            100.0 * entropy
        );
        let (cause, cure) = match self.unscaled().filter(|_| crosses) {
            Some(model) => (
                format!(
                    "logits that start unscaled: dot products of {} terms, multiplied by {}",
                    model.cross_head_width(),
                    model.first_cross_scale()
                ),
                self.scaled(),
            ),
            None => (
                "steps that were too large".to_string(),
                format!("{}, or --set training.clip_norm=1", self.slower()),
            ),
        };
        self.add_warning(WarningKind::SaturatedAttention, finding, &cause, cure);
    }

    pub(super) fn uniform(&mut self, diagnosis: &ModelDiagnosis) {
        let Some(first) = &self.memory.first_look else {
            return;
        };
        let mut pairs = diagnosis
            .cross_attentions
            .iter()
            .zip(&first.cross_attentions);
        let unchanged = pairs.position(|(now, first)| {
            now.entropy > UNIFORM
                && now.difference < SAME
                && (now.entropy - first.entropy).abs() < SAME
        });
        let Some(iteration) = unchanged else {
            return;
        };
        let AttentionDiagnosis {
            entropy,
            logit_deviation,
            ..
        } = diagnosis.cross_attentions[iteration];
        let finding = format!(
            "the cross-attention of iteration {} is uniform, as at the start: the entropy is {:.2}% of its maximum, the logits' \
             standard deviation is {logit_deviation:.1e}",
            iteration + 1,
            100.0 * entropy
        );
        let cause = "logits that are scaled too small, or a learning rate that is too low";
        let mut cure = format!("--learning-rate {:.0e}", 10.0 * self.learning_rate);
        if self.model.perceiver().is_some() {
            let scaled = "--set model.cross_attention_scale=0 (1/sqrt(head width))";
            cure = format!("{scaled}, or {cure}");
        }
        self.add_warning(WarningKind::UniformAttention, finding, cause, cure);
    }

    pub(super) fn latents(&mut self, diagnosis: &ModelDiagnosis) {
        let differs = |attention: &AttentionDiagnosis| attention.difference >= SAME;
        if diagnosis.latent_spread >= NO_SPREAD
            || diagnosis.cross_attentions.last().is_none_or(differs)
        {
            return;
        }
        let finding = format!(
            "all latents are nearly equal: they differ by {:.1e} of their size and attend to the same tokens",
            diagnosis.latent_spread
        );
        let cause = "initial latents that are too similar, or steps that were too large";
        let deviation = match self.model {
            ModelConfig::PerceiverIo(_) => "model.initializer_range",
            _ => "model.latent_deviation",
        };
        let cure = format!(
            "{}, --set training.clip_norm=1, or a larger {deviation}",
            self.slower()
        );
        self.add_warning(WarningKind::EqualLatents, finding, cause, cure);
    }

    /// Returns the Perceiver whose cross-attention starts with far larger logits than usual.
    fn unscaled(&self) -> Option<&PerceiverConfig> {
        let model = self.model.perceiver()?;
        let usual = 1.0 / (model.cross_head_width() as f64).sqrt();
        (model.first_cross_scale() > 3.0 * usual).then_some(model)
    }

    fn scaled(&self) -> String {
        format!(
            "--set model.cross_attention_scale=0 (1/sqrt(head width)), or {}",
            self.slower()
        )
    }
}

fn median(values: &VecDeque<f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    (sorted.len() >= ENOUGH).then(|| sorted[sorted.len() / 2])
}
