//! The page of a sweep: the table of variants, variants sorted by validation accuracy, and curves
//! with bands over the seeds.

use std::collections::BTreeMap;

use askama::Template;
use perceiver_train::EpochMetrics;

use crate::error::Result;
use crate::page::charts::{Chart, Curve};
use crate::page::curves::{Metric, drawn, of_learning};
use crate::page::figure::Figure;
use crate::page::range_bar::{RangeAxis, RangeBar};
use crate::text::exact_percent;

/// The results of a variant of a sweep.
#[derive(Clone, Debug, Default)]
pub struct SweepVariant {
    /// The name.
    pub name: String,
    /// Whether its validation accuracy is the highest.
    pub best: bool,
    /// Its row of the table, formatted.
    pub row: Vec<String>,
    /// The mean validation accuracy over its runs, and the sample standard deviation if there are
    /// several; none before a run is finished.
    pub val_acc: Option<(f64, Option<f64>)>,
    /// The epochs of its finished runs, one list per seed.
    pub runs: Vec<Vec<EpochMetrics>>,
}

#[derive(Template)]
#[template(path = "sweep.html")]
struct Page<'a> {
    name: &'a str,
    header: &'a [String],
    caption: &'a str,
    variants: &'a [SweepVariant],
    ranking: Vec<Ranked<'a>>,
    axis: RangeAxis,
    charts: Vec<Figure>,
    /// The number of variants with curves.
    drawn: usize,
}

/// A variant in the order of validation accuracy.
struct Ranked<'a> {
    name: &'a str,
    best: bool,
    accuracy: String,
    bar: RangeBar,
}

/// Renders the page of a sweep: `header` are the columns of the variants' rows, `caption` explains
/// the table.
///
/// # Errors
/// When a chart cannot be drawn.
pub fn sweep_page(
    name: &str,
    header: &[String],
    caption: &str,
    variants: &[SweepVariant],
) -> Result<String> {
    let sorted = by_accuracy(variants);
    let ends = |(mean, deviation): (f64, Option<f64>)| {
        let deviation = deviation.unwrap_or(0.0);
        [(mean - deviation).max(0.0), (mean + deviation).min(1.0)]
    };
    let of_variants = sorted.iter().filter_map(|variant| variant.val_acc);
    let axis = RangeAxis::around(of_variants.map(ends));
    let ranking = sorted.iter().filter_map(|variant| {
        let (mean, deviation) = variant.val_acc?;
        let spread = deviation.map(|deviation| format!(" ± {:.2}", 100.0 * deviation));
        Some(Ranked {
            name: &variant.name,
            best: variant.best,
            accuracy: exact_percent(mean) + &spread.unwrap_or_default(),
            bar: axis.bar(mean, ends((mean, deviation))),
        })
    });
    let shown = &sorted[..sorted.len().min(Chart::MOST_CURVES)];
    let page = Page {
        name,
        header,
        caption,
        variants,
        axis,
        charts: charts(shown)?,
        drawn: shown.len(),
        ranking: ranking.collect(),
    };
    Ok(page.render()?)
}

/// Returns the variants with finished runs, in descending order of validation accuracy.
fn by_accuracy(variants: &[SweepVariant]) -> Vec<&SweepVariant> {
    let mut sorted: Vec<&SweepVariant> = variants.iter().filter(|v| v.val_acc.is_some()).collect();
    let mean = |variant: &SweepVariant| variant.val_acc.map_or(0.0, |(mean, _)| mean);
    sorted.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
    sorted
}

fn charts(variants: &[&SweepVariant]) -> Result<Vec<Figure>> {
    let all = |metric: Metric| {
        let curves = variants.iter().map(|variant| curve(variant, metric));
        curves.collect()
    };
    drawn(of_learning(all), &[], |curve| curve)
}

/// Returns the mean of a metric over the seeds that have the epoch, from their lowest to their
/// highest value.
fn curve(variant: &SweepVariant, metric: Metric) -> Curve {
    let mut by_epoch: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for epoch in variant.runs.iter().flatten() {
        by_epoch.entry(epoch.epoch).or_default().push(metric(epoch));
    }
    let mut curve = Curve {
        name: variant.name.clone(),
        ..Curve::default()
    };
    for (epoch, values) in by_epoch {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        curve.points.push((epoch as f64, mean));
        if variant.runs.len() > 1 {
            curve.intervals.push((low, high));
        }
    }
    curve
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(epoch: usize, val_acc: f64) -> EpochMetrics {
        EpochMetrics {
            epoch,
            loss: 1.0,
            acc: 0.5,
            top5_acc: 0.9,
            val_loss: 1.5,
            val_acc,
            val_top5_acc: 0.8,
            learning_rate: 0.001,
            seconds: 1.0,
            images_per_second: 10.0,
            diagnosis: None,
            warnings: Vec::new(),
            custom: BTreeMap::new(),
        }
    }

    #[test]
    fn curves_are_means_over_the_seeds_with_their_range() {
        let variant = SweepVariant {
            runs: vec![vec![epoch(1, 0.2), epoch(2, 0.5)], vec![epoch(1, 0.4)]],
            ..SweepVariant::default()
        };
        let curve = curve(&variant, |epoch| epoch.val_acc);
        assert!((curve.points[0].1 - 0.3).abs() < 1e-12);
        assert_eq!(curve.points[1], (2.0, 0.5));
        assert_eq!(curve.intervals, [(0.2, 0.4), (0.5, 0.5)]);
    }

    #[test]
    fn variants_are_sorted_and_escaped() {
        let variant = |name: &str, mean| SweepVariant {
            name: name.to_string(),
            row: vec![name.to_string()],
            val_acc: Some((mean, Some(0.01))),
            runs: vec![vec![epoch(1, mean), epoch(2, mean)]],
            ..SweepVariant::default()
        };
        let variants = [
            variant("low", 0.5),
            variant("<high>", 0.9),
            SweepVariant::default(),
        ];
        let header = ["variant".to_string()];
        let page = sweep_page("s", &header, "means", &variants).unwrap();
        assert!(!page.contains("<high>"));
        let ranking = page.split("id=\"ranking\"").nth(1).unwrap();
        assert!(ranking.find("high").unwrap() < ranking.find("low").unwrap());
        assert!(page.contains("90.00% ± 1.00"));
        let none = sweep_page("s", &header, "means", &[SweepVariant::default()]).unwrap();
        assert!(!none.contains("<figure"));
    }
}
