//! Training curves of one run or several.

use std::collections::BTreeSet;

use perceiver_train::{AttentionDiagnosis, Diagnosis, EpochMetrics, Prediction};

use crate::error::Result;
use crate::page::calibration::Calibration;
use crate::page::charts::{Axis, Chart, Curve};
use crate::run::Run;
use crate::text::{counted, says_top5};

/// The size of a chart in pixels: two fit side by side on a page, and a phone shows one nearly in
/// full size.
const SIZE: (u32, u32) = (480, 300);

/// A rendered chart.
pub(crate) struct Drawn {
    pub(crate) title: String,
    /// The names of the curves, in the order of their colors.
    pub(crate) names: Vec<String>,
    pub(crate) svg: String,
}

/// A metric of an epoch.
type Figure = fn(&EpochMetrics) -> f64;

/// The description of a chart: its title, which names the metric, the digits of values, and its
/// curves.
struct Plan<'a> {
    title: &'a str,
    digits: usize,
    curves: Vec<Curve>,
}

/// The curve of a metric over the epochs.
fn curve(name: &str, epochs: &[EpochMetrics], figure: Figure) -> Curve {
    partial_curve(name, epochs, |epoch| Some(figure(epoch)))
}

/// The curve of a metric over the epochs that have it.
fn partial_curve(
    name: &str,
    epochs: &[EpochMetrics],
    figure: impl Fn(&EpochMetrics) -> Option<f64>,
) -> Curve {
    let points = epochs
        .iter()
        .filter_map(|epoch| Some((epoch.epoch as f64, figure(epoch)?)));
    Curve {
        name: name.to_string(),
        points: points.collect(),
        notes: Vec::new(),
    }
}

/// Renders the loss, accuracies, learning rate and callbacks' metrics of a run with `classes` classes;
/// empty before its first epoch.
pub(crate) fn of_run(epochs: &[EpochMetrics], classes: usize) -> Result<Vec<Drawn>> {
    let both = |training: Figure, validation: Figure| {
        vec![
            curve("training", epochs, training),
            curve("validation", epochs, validation),
        ]
    };
    let standard = [
        Plan {
            title: "Loss (nats)",
            digits: 3,
            curves: both(|e| e.loss, |e| e.val_loss),
        },
        Plan {
            title: "Accuracy (%)",
            digits: 2,
            curves: both(|e| 100.0 * e.acc, |e| 100.0 * e.val_acc),
        },
        Plan {
            title: "Top-5 accuracy (%)",
            digits: 2,
            curves: if says_top5(classes) {
                both(|e| 100.0 * e.top5_acc, |e| 100.0 * e.val_top5_acc)
            } else {
                Vec::new()
            },
        },
        Plan {
            title: "Learning rate",
            digits: 4,
            curves: vec![curve("learning rate", epochs, learning_rate)],
        },
    ];
    let custom: BTreeSet<&String> = epochs
        .iter()
        .flat_map(|epoch| epoch.custom.keys())
        .collect();
    let custom = custom.into_iter().map(|name| Plan {
        title: name,
        digits: 4,
        curves: vec![partial_curve(name, epochs, |epoch| {
            epoch.custom.get(name).copied()
        })],
    });
    drawn(standard.into_iter().chain(custom))
}

/// Renders the validation metrics, training loss and learning rate of several runs.
pub(crate) fn of_runs(runs: &[Run], names: &[String]) -> Result<Vec<Drawn>> {
    let all = |figure: Figure| {
        let runs = runs.iter().zip(names);
        runs.map(|(run, name)| curve(name, &run.epochs, figure))
            .collect()
    };
    drawn([
        Plan {
            title: "Validation accuracy (%)",
            digits: 2,
            curves: all(|e| 100.0 * e.val_acc),
        },
        Plan {
            title: "Validation loss (nats)",
            digits: 3,
            curves: all(|e| e.val_loss),
        },
        Plan {
            title: "Training loss (nats)",
            digits: 3,
            curves: all(|e| e.loss),
        },
        Plan {
            title: "Learning rate",
            digits: 4,
            curves: all(learning_rate),
        },
    ])
}

/// Renders the measurements of `--diagnose`; empty without it.
pub(crate) fn of_diagnosis(epochs: &[EpochMetrics]) -> Result<Vec<Drawn>> {
    let measured = |name: &str, figure: fn(&Diagnosis) -> f64| {
        partial_curve(name, epochs, |epoch| epoch.diagnosis.as_ref().map(figure))
    };
    drawn([
        Plan {
            title: "Gradient norm",
            digits: 4,
            curves: vec![
                measured("mean over the steps", |d| d.gradients.norm_mean),
                measured("maximum", |d| d.gradients.norm_max),
            ],
        },
        Plan {
            title: "Entropy of attention (% of its maximum)",
            digits: 1,
            curves: vec![
                measured("cross attention", |d| entropy(&d.model.cross_attentions)),
                measured("self-attention", |d| {
                    entropy(d.model.self_attentions.iter().flatten())
                }),
            ],
        },
        Plan {
            title: "Spread of the latents",
            digits: 4,
            curves: vec![measured("spread", |d| d.model.latent_spread)],
        },
    ])
}

/// Returns the mean attention entropy, in percent of its maximum.
fn entropy<'a>(attentions: impl IntoIterator<Item = &'a AttentionDiagnosis>) -> f64 {
    let entropies = attentions.into_iter().map(|attention| attention.entropy);
    let (sum, count) = entropies.fold((0.0, 0.0), |(sum, count), next| (sum + next, count + 1.0));
    100.0 * sum / f64::max(count, 1.0)
}

fn learning_rate(epoch: &EpochMetrics) -> f64 {
    // Through the shortest decimal of the f32, which its exact f64 value is not.
    let shortest = epoch.learning_rate.to_string();
    shortest.parse().unwrap_or(f64::from(epoch.learning_rate))
}

fn drawn<'a>(plans: impl IntoIterator<Item = Plan<'a>>) -> Result<Vec<Drawn>> {
    let some = |plan: &Plan| plan.curves.iter().any(|curve| !curve.points.is_empty());
    plans
        .into_iter()
        .filter(some)
        .map(|plan| {
            let chart = Chart {
                title: None,
                across: Axis::epochs(),
                up: Axis::new("", plan.digits),
                curves: plan.curves,
                guide: None,
                size: SIZE,
                legend: false,
                hover: true,
            };
            Drawn::new(plan.title, &chart)
        })
        .collect()
}

impl Drawn {
    fn new(title: &str, chart: &Chart) -> Result<Self> {
        Ok(Self {
            title: title.to_string(),
            names: chart.curves.iter().map(|c| c.name.clone()).collect(),
            svg: chart.svg()?,
        })
    }

    /// Renders the reliability diagram: accuracy by confidence.
    pub(crate) fn reliability(calibration: &Calibration) -> Result<Self> {
        let bins = calibration.bins.iter();
        let curve = Curve {
            name: "accuracy (%)".to_string(),
            points: bins
                .clone()
                .map(|bin| (100.0 * bin.confidence, 100.0 * bin.accuracy))
                .collect(),
            notes: bins.map(|bin| image_count(bin.images)).collect(),
        };
        let whole = |label: &str| Axis {
            range: Some(0.0..100.0),
            ..Axis::new(label, 1)
        };
        let chart = Chart {
            title: None,
            across: whole("confidence (%)"),
            up: whole("accuracy (%)"),
            curves: vec![curve],
            guide: Some([(0.0, 0.0), (100.0, 100.0)]),
            size: SIZE,
            legend: false,
            hover: true,
        };
        Self::new("Reliability", &chart)
    }

    /// Renders the histogram of confidence.
    pub(crate) fn confidence_histogram(predictions: &[Prediction]) -> Result<Self> {
        const STEPS: usize = 20;
        let mut counts = [[0_usize; STEPS]; 2];
        for prediction in predictions {
            let at = (f64::from(prediction.probability) * STEPS as f64) as usize;
            counts[usize::from(!prediction.is_right())][at.min(STEPS - 1)] += 1;
        }
        let curves = ["correct", "wrong"].into_iter().zip(counts);
        let curves = curves.map(|(name, counts)| Curve {
            name: name.to_string(),
            points: counts
                .iter()
                .enumerate()
                .map(|(at, &count)| (100.0 * (at as f64 + 0.5) / STEPS as f64, count as f64))
                .collect(),
            notes: Vec::new(),
        });
        let chart = Chart {
            title: None,
            across: Axis {
                range: Some(0.0..100.0),
                ..Axis::new("confidence (%)", 1)
            },
            up: Axis::new("images", 0),
            curves: curves.collect(),
            guide: None,
            size: SIZE,
            legend: false,
            hover: true,
        };
        Self::new("Confidence", &chart)
    }
}

fn image_count(count: usize) -> String {
    counted(count, "image")
}
