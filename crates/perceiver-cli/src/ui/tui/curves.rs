//! The curves of the view: points from the files of a run, and the ranges of their axes.

use perceiver_report::Run;
use perceiver_train::{EpochMetrics, StepMetrics};

/// A chart: a title and its curves.
pub(super) struct Plot {
    pub(super) title: &'static str,
    pub(super) curves: Vec<PlotCurve>,
}

/// A curve over the epochs.
pub(super) struct PlotCurve {
    pub(super) name: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

impl Plot {
    /// Returns the ranges of both axes; none without points.
    pub(super) fn ranges(&self) -> Option<([f64; 2], [f64; 2])> {
        let points = self.curves.iter().flat_map(|curve| &curve.points);
        let start = [f64::INFINITY, f64::NEG_INFINITY];
        let (x, y) = points.fold((start, start), |(x, y), point| {
            let wider = |[low, high]: [f64; 2], at: f64| [low.min(at), high.max(at)];
            (wider(x, point.0), wider(y, point.1))
        });
        (x[0] <= x[1]).then(|| ([0.0, if x[1] > 0.0 { x[1] } else { 1.0 }], with_room(y)))
    }
}

/// Adds a twentieth to both ends of a range, and half of its value to both sides of a single one.
fn with_room([low, high]: [f64; 2]) -> [f64; 2] {
    let room = match (low, high) {
        _ if high > low => 0.05 * (high - low),
        (0.0, _) => 0.5,
        _ => low.abs() / 2.0,
    };
    [low - room, high + room]
}

/// A value that a chart can show.
fn is_shown(point: &(f64, f64)) -> bool {
    point.0.is_finite() && point.1.abs() <= 1e100
}

fn of_epochs(name: &'static str, run: &Run, metric: impl Fn(&EpochMetrics) -> f64) -> PlotCurve {
    let points = run.epochs.iter();
    let points = points.map(|epoch| (epoch.epoch as f64, metric(epoch)));
    PlotCurve {
        name,
        points: points.filter(is_shown).collect(),
    }
}

fn of_steps(
    name: &'static str,
    run: &Run,
    metric: impl Fn(&StepMetrics) -> Option<f64>,
) -> PlotCurve {
    let points = run.steps.iter();
    let points = points.filter_map(|step| Some((step.epoch, metric(step)?)));
    PlotCurve {
        name,
        points: points.filter(is_shown).collect(),
    }
}

/// Returns the charts of a run, the most important first.
pub(super) fn plots(run: &Run) -> [Plot; 6] {
    let loss = if run.steps.is_empty() {
        of_epochs("train", run, |epoch| epoch.loss)
    } else {
        of_steps("train", run, |step| Some(step.loss))
    };
    [
        Plot {
            title: "loss (nats)",
            curves: vec![loss, of_epochs("val", run, |epoch| epoch.val_loss)],
        },
        Plot {
            title: "accuracy (%)",
            curves: vec![
                of_epochs("train", run, |epoch| 100.0 * epoch.acc),
                of_epochs("val", run, |epoch| 100.0 * epoch.val_acc),
            ],
        },
        Plot {
            title: "speed (images/s)",
            curves: vec![of_epochs("train", run, |epoch| epoch.images_per_second)],
        },
        Plot {
            title: "learning rate",
            curves: vec![of_steps("learning rate", run, |step| {
                Some(step.learning_rate)
            })],
        },
        Plot {
            title: "gradient norm",
            curves: vec![of_steps("before clipping", run, |step| {
                Some(step.gradient_norm)
            })],
        },
        Plot {
            title: "peak memory (MB)",
            curves: vec![of_steps("process", run, |step| {
                step.peak_memory_bytes.map(|bytes| bytes as f64 / 1e6)
            })],
        },
    ]
}

/// Formats the ends and the middle of a range with as many digits as tell them apart.
pub(super) fn labels([low, high]: [f64; 2]) -> [String; 3] {
    let step = (high - low) / 2.0;
    let digits = (1.0 - step.log10().floor()).clamp(0.0, 12.0) as usize;
    [low, low + step, high].map(|value| {
        if value != 0.0 && (value.abs() >= 1e6 || (digits > 4 && step < 1e-3)) {
            format!("{value:.1e}")
        } else {
            format!("{value:.*}", digits.min(4))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_room_and_survive_single_points() {
        let plot = |points: Vec<(f64, f64)>| Plot {
            title: "",
            curves: vec![PlotCurve { name: "", points }],
        };
        assert_eq!(plot(Vec::new()).ranges(), None);
        let (x, y) = plot(vec![(1.0, 2.0)]).ranges().unwrap();
        assert_eq!((x, y), ([0.0, 1.0], [1.0, 3.0]));
        let constant = plot(vec![(1.0, 1e-3), (2.0, 1e-3)]).ranges();
        assert_eq!(constant, Some(([0.0, 2.0], [5e-4, 1.5e-3])));
        let (x, y) = plot(vec![(0.0, 0.0)]).ranges().unwrap();
        assert_eq!((x, y), ([0.0, 1.0], [-0.5, 0.5]));
        let (x, y) = plot(vec![(1.0, 0.0), (4.0, 10.0)]).ranges().unwrap();
        assert_eq!((x, y), ([0.0, 4.0], [-0.5, 10.5]));
    }

    #[test]
    fn labels_tell_the_ends_apart() {
        assert_eq!(labels([0.0, 4.0]), ["0.0", "2.0", "4.0"]);
        assert_eq!(labels([95.0, 1005.0]), ["95", "550", "1005"]);
        assert_eq!(labels([0.0, 2e-4]), ["0.0000", "1.0e-4", "2.0e-4"]);
        assert_eq!(labels([0.0, 4e6]), ["0", "2.0e6", "4.0e6"]);
    }
}
