//! The measurements of `--diagnose` over time: attention and gradients by layer, spread of the
//! latents.

use std::collections::BTreeSet;

use perceiver_train::{AttentionDiagnosis, Diagnosis, EpochMetrics, ModelDiagnosis};

use crate::error::Result;
use crate::page::charts::{Chart, Curve};
use crate::page::curves::{Plan, drawn, partial_curve};
use crate::page::figure::Figure;

/// A measurement of an attention layer.
type Measurement = fn(&AttentionDiagnosis) -> f64;

/// The attention layers of a model, in forward order.
type Layers = fn(&ModelDiagnosis) -> Vec<AttentionDiagnosis>;

/// Renders the measurements of `--diagnose`; empty without it.
pub(crate) fn of_diagnosis(epochs: &[EpochMetrics]) -> Result<Vec<Figure>> {
    let entropy: Measurement = |attention| 100.0 * attention.entropy;
    let deviation: Measurement = |attention| attention.logit_deviation;
    let spread = partial_curve("spread", epochs, |epoch| {
        Some(epoch.diagnosis.as_ref()?.model.latent_spread)
    });
    let plans = [
        Plan::new(
            "Entropy of cross attention (% of its maximum)",
            1,
            by_layer(epochs, cross, cross_name, entropy),
        ),
        Plan::new(
            "Entropy of self-attention (% of its maximum)",
            1,
            by_layer(epochs, own, own_name, entropy),
        ),
        Plan::new(
            "Spread of the logits of cross attention",
            3,
            by_layer(epochs, cross, cross_name, deviation),
        ),
        Plan::new(
            "Spread of the logits of self-attention",
            3,
            by_layer(epochs, own, own_name, deviation),
        ),
        Plan::new("Gradient norm by layer", 4, gradients_by_layer(epochs)),
        Plan::new("Spread of the latents", 4, vec![spread]),
    ];
    drawn(plans, &[], |_| 0)
}

fn cross(model: &ModelDiagnosis) -> Vec<AttentionDiagnosis> {
    model.cross_attentions.clone()
}

fn own(model: &ModelDiagnosis) -> Vec<AttentionDiagnosis> {
    model.self_attentions.concat()
}

fn cross_name(_: &ModelDiagnosis, layer: usize) -> String {
    format!("cross attention {}", layer + 1)
}

/// Names a self-attention layer by iteration and block.
fn own_name(model: &ModelDiagnosis, layer: usize) -> String {
    let mut block = layer;
    for (iteration, blocks) in model.self_attentions.iter().enumerate() {
        if block < blocks.len() {
            return match model.self_attentions.len() {
                1 => format!("block {}", block + 1),
                _ => format!("iteration {}, block {}", iteration + 1, block + 1),
            };
        }
        block -= blocks.len();
    }
    format!("layer {}", layer + 1)
}

/// Returns a curve per layer; of more than a chart can hold, evenly spaced ones with the last.
fn by_layer(
    epochs: &[EpochMetrics],
    layers: Layers,
    name: fn(&ModelDiagnosis, usize) -> String,
    measurement: Measurement,
) -> Vec<Curve> {
    let first = epochs.iter().find_map(|epoch| epoch.diagnosis.as_ref());
    let Some(Diagnosis { model, .. }) = first else {
        return Vec::new();
    };
    let curve = |layer: usize| {
        partial_curve(&name(model, layer), epochs, |epoch| {
            let of_epoch = layers(&epoch.diagnosis.as_ref()?.model);
            of_epoch.get(layer).map(measurement)
        })
    };
    spaced(layers(model).len()).into_iter().map(curve).collect()
}

/// Returns the indices of at most as many of `count` layers as a chart can hold.
fn spaced(count: usize) -> Vec<usize> {
    let shown = count.min(Chart::MOST_CURVES);
    (0..shown)
        .map(|at| match shown {
            1 => 0,
            _ => at * (count - 1) / (shown - 1),
        })
        .collect()
}

fn gradients_by_layer(epochs: &[EpochMetrics]) -> Vec<Curve> {
    let diagnoses = epochs.iter().filter_map(|epoch| epoch.diagnosis.as_ref());
    let names: BTreeSet<&String> = diagnoses
        .flat_map(|diagnosis| diagnosis.gradients.layers.keys())
        .collect();
    let names: Vec<&String> = names.into_iter().collect();
    let curve = |at: usize| {
        partial_curve(names[at], epochs, |epoch| {
            let layers = &epoch.diagnosis.as_ref()?.gradients.layers;
            layers.get(names[at]).copied()
        })
    };
    spaced(names.len()).into_iter().map(curve).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_spread_over_the_model() {
        assert_eq!(spaced(1), [0]);
        assert_eq!(spaced(3), [0, 1, 2]);
        let many = spaced(48);
        assert_eq!((many.len(), many[0], many[9]), (10, 0, 47));
        assert!(spaced(0).is_empty());
    }

    #[test]
    fn self_attention_is_named_by_iteration_and_block() {
        let attention = AttentionDiagnosis {
            entropy: 0.5,
            logit_deviation: 1.0,
            difference: 0.0,
        };
        let mut model = ModelDiagnosis {
            cross_attentions: Vec::new(),
            self_attentions: vec![vec![attention; 2], vec![attention; 2]],
            latent_spread: 0.0,
        };
        assert_eq!(own_name(&model, 3), "iteration 2, block 2");
        model.self_attentions.pop();
        assert_eq!(own_name(&model, 1), "block 2");
    }
}
