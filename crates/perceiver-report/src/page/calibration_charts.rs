//! The charts of calibration: accuracy by confidence, and the histogram of confidence.

use askama::Template;
use perceiver_train::{Prediction, wilson_interval};

use crate::error::Result;
use crate::page::calibration::Calibration;
use crate::page::charts::{Axis, Chart, Curve, Intervals};
use crate::page::curves::SIZE;
use crate::page::figure::{Figure, Values};
use crate::text::{counted, grouped};

/// The number of bins of the histogram.
const BINS: usize = 20;

/// Renders the reliability diagram: the accuracy of every bin with its 95% interval (Wilson), by
/// confidence; below, its number of images.
pub(crate) fn reliability(calibration: &Calibration) -> Result<Figure> {
    let bins = calibration.bins.iter();
    let percent = |share: f64| 100.0 * share;
    let curve = Curve {
        name: "accuracy (%), with 95% interval".to_string(),
        points: bins
            .clone()
            .map(|bin| (percent(bin.confidence), percent(bin.accuracy)))
            .collect(),
        notes: bins
            .clone()
            .map(|bin| counted(bin.images, "image"))
            .collect(),
        labels: bins.clone().map(|bin| grouped(bin.images)).collect(),
        intervals: bins
            .map(|bin| {
                let [low, high] = wilson_interval(bin.accuracy, bin.images as u64);
                (percent(low), percent(high))
            })
            .collect(),
    };
    let whole = |label: &str| Axis {
        range: Some(0.0..100.0),
        ..Axis::new(label, 1)
    };
    let chart = Chart {
        across: whole("confidence (%)"),
        // Room for the numbers of images below.
        up: Axis {
            range: Some(-16.0..100.0),
            ..whole("accuracy (%)")
        },
        curves: vec![curve],
        guide: Some([(0.0, 0.0), (100.0, 100.0)]),
        size: SIZE,
        intervals: Intervals::Bars,
        hover: true,
        ..Chart::default()
    };
    Figure::new("Reliability", &chart, |_| 0)
}

/// The histogram as SVG. The axis of counts is logarithmic, so that few images stay visible beside
/// many.
#[derive(Template)]
#[template(path = "histogram.svg", escape = "html")]
struct Histogram {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    bars: Vec<Bar>,
    counts: Vec<Tick>,
    shares: Vec<Tick>,
}

/// A bar: the images of a bin that are correct, or those that are wrong.
struct Bar {
    curve: usize,
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    says: String,
}

/// A labeled position of an axis.
struct Tick {
    at: f64,
    label: String,
}

/// Renders the histogram of confidence, for correct and wrong predictions.
pub(crate) fn histogram(predictions: &[Prediction]) -> Result<Figure> {
    let mut counts = [[0_usize; 2]; BINS];
    for prediction in predictions {
        let bin = (f64::from(prediction.probability) * BINS as f64) as usize;
        counts[bin.min(BINS - 1)][usize::from(!prediction.is_right())] += 1;
    }
    let names = ["correct", "wrong"].map(str::to_string);
    let bins: Vec<String> = (0..BINS)
        .map(|bin| format!("{} to {}", bin * 100 / BINS, (bin + 1) * 100 / BINS))
        .collect();
    let rows = bins
        .iter()
        .zip(&counts)
        .map(|(bin, [correct, wrong])| vec![bin.clone(), grouped(*correct), grouped(*wrong)]);
    let values = Values {
        head: vec![
            "confidence (%)".to_string(),
            "correct".to_string(),
            "wrong".to_string(),
        ],
        rows: rows.collect(),
        of: None,
    };
    Ok(Figure {
        title: "Images by confidence, on a logarithmic scale".to_string(),
        names: names.to_vec(),
        svg: Histogram::new(&counts, &bins).render()?,
        json: String::new(),
        values,
    })
}

impl Histogram {
    fn new(counts: &[[usize; 2]; BINS], bins: &[String]) -> Self {
        let (left, right, top, bottom) = (54.0, 464.0, 14.0, 238.0);
        let most = counts.iter().flatten().copied().max().unwrap_or(1).max(1);
        // One image has a height too.
        let height = |count: usize| {
            let share = ((count as f64).log10() + 0.3) / ((most as f64).log10() + 0.3);
            if count == 0 {
                0.0
            } else {
                share * (bottom - top)
            }
        };
        let step = (right - left) / BINS as f64;
        let width = 0.42 * step;
        let bars = counts
            .iter()
            .zip(bins)
            .enumerate()
            .flat_map(|(at, (pair, bin))| {
                let names = ["correct", "wrong"];
                let both = pair.iter().zip(names).enumerate();
                both.filter(|(_, (count, _))| **count > 0)
                    .map(move |(curve, (&count, name))| Bar {
                        curve: curve + 1,
                        x: left + step * (at as f64 + 0.06) + width * curve as f64,
                        y: bottom - height(count),
                        width,
                        height: height(count),
                        says: format!("confidence {bin}%: {} {name}", counted(count, "image")),
                    })
            });
        let powers = (0..).map(|power| 10_usize.pow(power));
        let counts = powers.take_while(|&power| power <= most).map(|power| Tick {
            at: bottom - height(power),
            label: grouped(power),
        });
        let shares = (0..=5).map(|fifth| Tick {
            at: left + f64::from(fifth) / 5.0 * (right - left),
            label: (20 * fifth).to_string(),
        });
        Self {
            left,
            right,
            top,
            bottom,
            bars: bars.collect(),
            counts: counts.collect(),
            shares: shares.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::prediction;

    #[test]
    fn every_image_is_in_a_bar() {
        let mut predictions = [(0, 0), (0, 0), (0, 1)].map(prediction).to_vec();
        predictions[0].probability = 1.0;
        predictions[1].probability = f32::NAN;
        let figure = histogram(&predictions).unwrap();
        assert_eq!(figure.svg.matches("<rect").count(), 3, "{}", figure.svg);
        assert!(
            figure
                .svg
                .contains("confidence 95 to 100%: 1 image correct")
        );
        assert!(figure.svg.contains("confidence 80 to 85%: 1 image wrong"));
        assert_eq!(figure.values.rows.len(), BINS);
    }

    #[test]
    fn bins_have_intervals_and_counts() {
        let calibration = Calibration::of(&[(0, 0), (0, 1)].map(prediction)).unwrap();
        let figure = reliability(&calibration).unwrap();
        assert_eq!(
            figure.values.rows,
            [["80.0", "50.0 (9.5 to 90.5), 2 images"]]
        );
    }
}
