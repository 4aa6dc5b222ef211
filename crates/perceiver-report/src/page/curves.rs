//! Training curves of one run or several.

use std::collections::BTreeSet;

use perceiver_train::{EpochMetrics, StepMetrics};

use crate::error::Result;
use crate::page::charts::{Axis, Chart, Curve, Mark};
use crate::page::figure::Figure;
use crate::run::Run;
use crate::text::says_top5;

/// The size of a chart in pixels: two fit side by side on a page, and a phone shows one nearly in
/// full size.
pub(crate) const SIZE: (u32, u32) = (480, 280);

/// A metric of an epoch.
pub(crate) type Metric = fn(&EpochMetrics) -> f64;

/// The description of a chart: its title, which names the metric, the digits of values, and its
/// curves.
pub(crate) struct Plan {
    pub(crate) title: String,
    pub(crate) digits: usize,
    pub(crate) curves: Vec<Curve>,
}

impl Plan {
    pub(crate) fn new(title: &str, digits: usize, curves: Vec<Curve>) -> Self {
        Self {
            title: title.to_string(),
            digits,
            curves,
        }
    }
}

/// The curve of a metric over the epochs.
fn curve(name: &str, epochs: &[EpochMetrics], metric: Metric) -> Curve {
    partial_curve(name, epochs, |epoch| Some(metric(epoch)))
}

/// The curve of a metric over the epochs that have it.
pub(crate) fn partial_curve(
    name: &str,
    epochs: &[EpochMetrics],
    metric: impl Fn(&EpochMetrics) -> Option<f64>,
) -> Curve {
    let points = epochs
        .iter()
        .filter_map(|epoch| Some((epoch.epoch as f64, metric(epoch)?)));
    Curve {
        name: name.to_string(),
        points: points.collect(),
        ..Curve::default()
    }
}

/// The curve of a metric within the epochs.
fn step_curve(
    name: &str,
    steps: &[StepMetrics],
    metric: impl Fn(&StepMetrics) -> Option<f64>,
) -> Curve {
    let points = steps
        .iter()
        .filter_map(|step| Some((step.epoch, metric(step)?)));
    Curve {
        name: name.to_string(),
        points: points.collect(),
        ..Curve::default()
    }
}

/// Renders the curves of a run: loss, accuracies, the gap between validation and training, learning
/// rate, gradient norm, speed, memory, and callbacks' metrics; in its first epoch those of the steps.
pub(crate) fn of_run(run: &Run) -> Result<Vec<Figure>> {
    let (epochs, steps) = (&run.epochs[..], &run.steps[..]);
    let both = |training: Metric, validation: Metric| {
        vec![
            curve("training", epochs, training),
            curve("validation", epochs, validation),
        ]
    };
    let one = |name: &str, metric: Metric| vec![curve(name, epochs, metric)];
    let within =
        |name: &str, metric: fn(&StepMetrics) -> Option<f64>| vec![step_curve(name, steps, metric)];
    let mut plans = vec![
        Plan::new("Loss (nats)", 3, both(|e| e.loss, |e| e.val_loss)),
        Plan::new(
            "Accuracy (%)",
            2,
            both(|e| 100.0 * e.acc, |e| 100.0 * e.val_acc),
        ),
    ];
    if says_top5(run.config.classes.len()) {
        let curves = both(|e| 100.0 * e.top5_acc, |e| 100.0 * e.val_top5_acc);
        plans.push(Plan::new("Top-5 accuracy (%)", 2, curves));
    }
    plans.extend([
        Plan::new(
            "Gap: validation minus training loss (nats)",
            3,
            one("gap", |e| e.val_loss - e.loss),
        ),
        Plan::new(
            "Training loss within the epochs (nats)",
            3,
            within("training", |s| Some(s.loss)),
        ),
        Plan::new(
            "Learning rate",
            4,
            match steps {
                [] => one("learning rate", learning_rate),
                _ => within("learning rate", |s| Some(s.learning_rate)),
            },
        ),
        Plan::new(
            "Gradient norm",
            4,
            match steps {
                [] => gradient_norms(epochs),
                _ => within("before clipping", |s| Some(s.gradient_norm)),
            },
        ),
        Plan::new(
            "Speed (images/s)",
            0,
            one("training", |e| e.images_per_second),
        ),
        Plan::new(
            "Peak memory (MB)",
            0,
            within("process", |s| {
                s.peak_memory_bytes.map(|bytes| bytes as f64 / 1e6)
            }),
        ),
    ]);
    let custom: BTreeSet<&String> = epochs
        .iter()
        .flat_map(|epoch| epoch.custom.keys())
        .collect();
    plans.extend(custom.into_iter().map(|name| {
        let curve = partial_curve(name, epochs, |epoch| epoch.custom.get(name).copied());
        Plan::new(name, 4, vec![curve])
    }));
    drawn(plans, &marks(run), |_| 0)
}

/// The gradient norms of `--diagnose`, of runs without step metrics.
fn gradient_norms(epochs: &[EpochMetrics]) -> Vec<Curve> {
    let norm = |name, maximum: bool| {
        partial_curve(name, epochs, |epoch| {
            let gradients = &epoch.diagnosis.as_ref()?.gradients;
            Some(if maximum {
                gradients.norm_max
            } else {
                gradients.norm_mean
            })
        })
    };
    vec![norm("mean", false), norm("maximum", true)]
}

/// Returns a mark per warning, at its step if the steps per epoch are known.
pub(crate) fn marks(run: &Run) -> Vec<Mark> {
    let steps_per_epoch = run.steps_per_epoch();
    let warnings = run
        .epochs
        .iter()
        .flat_map(|epoch| epoch.warnings.iter().map(move |warning| (epoch, warning)));
    let marks = warnings.map(|(epoch, warning)| Mark {
        at: match steps_per_epoch {
            0 => epoch.epoch as f64,
            steps => warning.step as f64 / steps as f64,
        },
        text: format!(
            "epoch {}, step {}: {}",
            epoch.epoch, warning.step, warning.finding
        ),
    });
    marks.collect()
}

/// Renders the validation metrics, training loss and learning rate of several runs.
pub(crate) fn of_runs(runs: &[Run], names: &[String]) -> Result<Vec<Figure>> {
    let all = |metric: Metric| {
        let runs = runs.iter().zip(names);
        runs.map(|(run, name)| curve(name, &run.epochs, metric))
            .collect()
    };
    let pace = [
        Plan::new("Learning rate", 4, all(learning_rate)),
        Plan::new("Speed (images/s)", 0, all(|e| e.images_per_second)),
    ];
    drawn(of_learning(all).into_iter().chain(pace), &[], |curve| curve)
}

/// Returns the charts of how well runs learn, each with the curves of its metric.
pub(crate) fn of_learning(curves: impl Fn(Metric) -> Vec<Curve>) -> [Plan; 4] {
    [
        Plan::new("Validation accuracy (%)", 2, curves(|e| 100.0 * e.val_acc)),
        Plan::new("Validation loss (nats)", 3, curves(|e| e.val_loss)),
        Plan::new("Training loss (nats)", 3, curves(|e| e.loss)),
        Plan::new(
            "Gap: validation minus training loss (nats)",
            3,
            curves(|e| e.val_loss - e.loss),
        ),
    ]
}

fn learning_rate(epoch: &EpochMetrics) -> f64 {
    // Through the shortest decimal of the f32, which its exact f64 value is not.
    let shortest = epoch.learning_rate.to_string();
    shortest.parse().unwrap_or(f64::from(epoch.learning_rate))
}

/// Renders the charts that have points; curve `i` of each has timeline `timelines(i)`.
pub(crate) fn drawn(
    plans: impl IntoIterator<Item = Plan>,
    marks: &[Mark],
    timelines: impl Fn(usize) -> usize + Copy,
) -> Result<Vec<Figure>> {
    let some = |plan: &Plan| plan.curves.iter().any(|curve| !curve.points.is_empty());
    plans
        .into_iter()
        .filter(some)
        .map(|plan| {
            let is_whole = |&(x, _): &(f64, f64)| x.fract() == 0.0;
            let points = plan.curves.iter().flat_map(|curve| &curve.points);
            let digits = if points.clone().all(is_whole) { 0 } else { 2 };
            let chart = Chart {
                across: Axis {
                    digits,
                    ..Axis::epochs()
                },
                up: Axis::new("", plan.digits),
                curves: plan.curves,
                size: SIZE,
                hover: true,
                marks: marks.to_vec(),
                ..Chart::default()
            };
            Figure::new(&plan.title, &chart, timelines)
        })
        .collect()
}
