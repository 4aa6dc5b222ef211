//! The tables of classes: accuracy with its interval, precision, recall, F1 and support.

use perceiver_data::Groups;
use perceiver_train::{ClassificationReport, Prediction, wilson_interval};

use crate::error::Result;
use crate::page::charts::{Axis, Chart, Curve};
use crate::page::curves::SIZE;
use crate::page::figure::Figure;
use crate::page::per_class::{per_class, per_group};
use crate::page::range_bar::{RangeAxis, RangeBar};
use crate::text::{grouped, interval, percent, share};

/// The maximum k of the top-k curve.
const MOST_K: u32 = 20;

/// The tables of a page.
#[derive(Default)]
pub(crate) struct ClassTables {
    pub(crate) groups: Vec<GroupRow>,
    pub(crate) classes: Vec<ClassRow>,
    pub(crate) averages: Vec<AverageRow>,
    /// The start of the axis of accuracies, such as `80%`.
    pub(crate) axis_start: String,
}

/// A row of the table of coarse classes.
pub(crate) struct GroupRow {
    pub(crate) name: String,
    pub(crate) right: f64,
    pub(crate) right_percent: String,
    pub(crate) bar: RangeBar,
    pub(crate) in_group: f64,
    pub(crate) in_group_percent: String,
    pub(crate) images: String,
}

/// A row of the table of classes. The accuracy on the images of a class is its recall.
pub(crate) struct ClassRow {
    pub(crate) class: u32,
    pub(crate) name: String,
    pub(crate) recall: f64,
    pub(crate) recall_percent: String,
    pub(crate) bar: RangeBar,
    pub(crate) interval: String,
    pub(crate) precision: f64,
    pub(crate) precision_percent: String,
    pub(crate) f1: f64,
    pub(crate) f1_percent: String,
    pub(crate) top5: f64,
    pub(crate) top5_percent: String,
    pub(crate) support: u64,
    pub(crate) predicted: u64,
    pub(crate) taken_for: String,
}

/// A row of averages over classes.
pub(crate) struct AverageRow {
    pub(crate) name: &'static str,
    pub(crate) precision: String,
    pub(crate) recall: String,
    pub(crate) f1: String,
    pub(crate) support: String,
}

impl ClassTables {
    pub(crate) fn new(
        predictions: &[Prediction],
        classes: &[String],
        groups: Option<&Groups>,
    ) -> Self {
        let Some(report) = ClassificationReport::new(predictions) else {
            return Self::default();
        };
        let of_classes = per_class(predictions, classes.len());
        let intervals = of_classes
            .iter()
            .map(|figures| wilson_interval(share(figures.right, figures.images), figures.images));
        let axis = RangeAxis::of(intervals);
        let row = |figures| class_row(figures, &report, classes, axis);
        let mut rows: Vec<ClassRow> = of_classes.into_iter().map(row).collect();
        rows.sort_by(|a, b| a.recall.total_cmp(&b.recall));
        let average = |name, average: &perceiver_train::ClassAverages| AverageRow {
            name,
            precision: percent(average.precision),
            recall: percent(average.recall),
            f1: percent(average.f1),
            support: grouped(average.support as usize),
        };
        Self {
            groups: groups.map_or_else(Vec::new, |groups| group_rows(predictions, groups, axis)),
            classes: rows,
            averages: vec![
                average("Macro average", &report.macro_average),
                average("Weighted average", &report.weighted_average),
            ],
            axis_start: axis.start(),
        }
    }
}

fn class_row(
    figures: crate::page::per_class::ClassFigures,
    report: &ClassificationReport,
    classes: &[String],
    axis: RangeAxis,
) -> ClassRow {
    let name = |class: u32| classes[class as usize].clone();
    let metrics = report.class(figures.class);
    let ends = wilson_interval(metrics.recall, figures.images);
    let top5 = share(figures.in_top5, figures.images);
    ClassRow {
        class: figures.class,
        name: name(figures.class),
        recall: metrics.recall,
        recall_percent: percent(metrics.recall),
        bar: axis.bar(metrics.recall, ends),
        interval: interval(ends, 0),
        precision: metrics.precision,
        precision_percent: percent(metrics.precision),
        f1: metrics.f1,
        f1_percent: percent(metrics.f1),
        top5,
        top5_percent: percent(top5),
        support: metrics.support,
        predicted: metrics.predicted,
        taken_for: figures
            .taken_for
            .map_or_else(String::new, |(class, count)| {
                format!("{} ({count})", name(class))
            }),
    }
}

fn group_rows(predictions: &[Prediction], groups: &Groups, axis: RangeAxis) -> Vec<GroupRow> {
    let mut rows: Vec<GroupRow> = per_group(predictions, groups)
        .into_iter()
        .map(|figures| {
            let [right, in_group] =
                [figures.right, figures.in_group].map(|count| share(count, figures.images));
            GroupRow {
                name: groups.names[figures.group as usize].clone(),
                right,
                right_percent: percent(right),
                bar: axis.bar(right, wilson_interval(right, figures.images)),
                in_group,
                in_group_percent: percent(in_group),
                images: grouped(figures.images as usize),
            }
        })
        .collect();
    rows.sort_by(|a, b| a.right.total_cmp(&b.right));
    rows
}

/// Renders the top-k accuracy for k from 1 to 20; none with fewer than three classes.
pub(crate) fn top_k(predictions: &[Prediction], classes: usize) -> Result<Option<Figure>> {
    let Some(report) = ClassificationReport::new(predictions).filter(|_| classes > 2) else {
        return Ok(None);
    };
    let most = MOST_K.min(classes as u32);
    let points = (1..=most).map(|k| (f64::from(k), 100.0 * report.top_k_accuracy(k)));
    let chart = Chart {
        across: Axis {
            whole: true,
            ..Axis::new("k", 0)
        },
        up: Axis::new("", 2),
        curves: vec![Curve {
            name: "top-k accuracy".to_string(),
            points: points.collect(),
            ..Curve::default()
        }],
        size: SIZE,
        hover: true,
        ..Chart::default()
    };
    Figure::new("Top-k accuracy (%)", &chart, |_| 0).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::prediction;

    #[test]
    fn classes_have_precision_recall_and_f1_and_the_worst_is_first() {
        let classes = ["a", "b"].map(str::to_string);
        let predictions = [(0, 0), (1, 0), (1, 1), (1, 0)].map(prediction);
        let tables = ClassTables::new(&predictions, &classes, None);
        let shown = |row: &ClassRow| {
            let figures = [&row.precision_percent, &row.recall_percent, &row.f1_percent];
            (row.name.clone(), figures.map(Clone::clone), row.support)
        };
        let rows: Vec<_> = tables.classes.iter().map(shown).collect();
        let figures = |texts: [&str; 3]| texts.map(str::to_string);
        assert_eq!(
            rows,
            [
                ("b".to_string(), figures(["100.0%", "33.3%", "50.0%"]), 3),
                ("a".to_string(), figures(["33.3%", "100.0%", "50.0%"]), 1),
            ]
        );
        assert_eq!(tables.averages[0].precision, "66.7%");
        assert_eq!(tables.averages[1].precision, "83.3%");
        assert!(ClassTables::new(&[], &classes, None).classes.is_empty());
    }
}
