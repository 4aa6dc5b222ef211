//! The curves of a run or of several: which are drawn, over what.

use perceiver_train::{AttentionDiagnosis, Diagnosis, EpochMetrics, Prediction};

use crate::calibration::Calibration;
use crate::charts::{Axis, Chart, Curve};
use crate::error::Result;
use crate::run::Run;
use crate::text::{counted, says_top5};

/// Pixels of a chart of a page: two stand side by side, and a phone shows one nearly in full size.
const SIZE: (u32, u32) = (480, 300);

/// A chart of a page.
pub(crate) struct Drawn {
    pub(crate) title: String,
    /// What the curves are called, in their colours' order.
    pub(crate) names: Vec<String>,
    pub(crate) svg: String,
}

/// A number of an epoch.
type Figure = fn(&EpochMetrics) -> f64;

/// A chart by its title, which says what is measured, the digits of the values, and its curves.
struct Plan<'a> {
    title: &'a str,
    digits: usize,
    curves: Vec<Curve>,
}

fn curve(name: &str, epochs: &[EpochMetrics], figure: Figure) -> Curve {
    let points = epochs
        .iter()
        .map(|epoch| (epoch.epoch as f64, figure(epoch)));
    Curve {
        name: name.to_string(),
        points: points.collect(),
        notes: Vec::new(),
    }
}

/// Loss, accuracies and learning rate of a run that tells so many classes apart; nothing before its first epoch.
pub(crate) fn of_run(epochs: &[EpochMetrics], classes: usize) -> Result<Vec<Drawn>> {
    let both = |training: Figure, validation: Figure| {
        vec![
            curve("training", epochs, training),
            curve("validation", epochs, validation),
        ]
    };
    drawn([
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
    ])
}

/// Validation, training loss and learning rate of several runs, by these names.
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

/// What `--diagnose` measured inside the model; nothing where it did not.
pub(crate) fn of_diagnosis(epochs: &[EpochMetrics]) -> Result<Vec<Drawn>> {
    let measured = |name: &str, figure: fn(&Diagnosis) -> f64| {
        let points = epochs.iter().filter_map(|epoch| {
            let diagnosis = epoch.diagnosis.as_ref()?;
            Some((epoch.epoch as f64, figure(diagnosis)))
        });
        Curve {
            name: name.to_string(),
            points: points.collect(),
            notes: Vec::new(),
        }
    };
    drawn([
        Plan {
            title: "Gradient norm",
            digits: 4,
            curves: vec![
                measured("mean of the steps", |d| d.gradients.norm_mean),
                measured("largest", |d| d.gradients.norm_max),
            ],
        },
        Plan {
            title: "Entropy of attention (% of the most)",
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

/// The mean of several attentions, in percent of the most.
fn entropy<'a>(attentions: impl IntoIterator<Item = &'a AttentionDiagnosis>) -> f64 {
    let entropies = attentions.into_iter().map(|attention| attention.entropy);
    let (sum, count) = entropies.fold((0.0, 0.0), |(sum, count), next| (sum + next, count + 1.0));
    100.0 * sum / f64::max(count, 1.0)
}

fn learning_rate(epoch: &EpochMetrics) -> f64 {
    // The shortest decimal of the f32, not the f64 nearest to it.
    let shortest = epoch.learning_rate.to_string();
    shortest.parse().unwrap_or(f64::from(epoch.learning_rate))
}

fn drawn<const N: usize>(plans: [Plan<'_>; N]) -> Result<Vec<Drawn>> {
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

    /// How often the model was right, by how sure it was.
    pub(crate) fn reliability(calibration: &Calibration) -> Result<Self> {
        let bins = calibration.bins.iter();
        let curve = Curve {
            name: "right (%)".to_string(),
            points: bins
                .clone()
                .map(|bin| (100.0 * bin.sure, 100.0 * bin.right))
                .collect(),
            notes: bins.map(|bin| pictures(bin.pictures)).collect(),
        };
        let whole = |label: &str| Axis {
            range: Some(0.0..100.0),
            ..Axis::new(label, 1)
        };
        let chart = Chart {
            title: None,
            across: whole("sure (%)"),
            up: whole("right (%)"),
            curves: vec![curve],
            guide: Some([(0.0, 0.0), (100.0, 100.0)]),
            size: SIZE,
            legend: false,
            hover: true,
        };
        Self::new("Reliability", &chart)
    }

    /// How many pictures the model was how sure of.
    pub(crate) fn sureness(predictions: &[Prediction]) -> Result<Self> {
        const STEPS: usize = 20;
        let mut counts = [[0_usize; STEPS]; 2];
        for said in predictions {
            let at = (f64::from(said.probability) * STEPS as f64) as usize;
            counts[usize::from(!said.is_right())][at.min(STEPS - 1)] += 1;
        }
        let curves = ["right", "wrong"].into_iter().zip(counts);
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
                ..Axis::new("sure (%)", 1)
            },
            up: Axis::new("pictures", 0),
            curves: curves.collect(),
            guide: None,
            size: SIZE,
            legend: false,
            hover: true,
        };
        Self::new("How sure", &chart)
    }
}

fn pictures(count: usize) -> String {
    counted(count, "picture")
}
