//! A chart on a page: its SVG, its values as JSON for `page.js`, and its values as a table.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::Result;
use crate::page::charts::{Chart, Curve, Intervals, number};
use crate::text::json_in_page;

/// The maximum number of rows of a table of values; of more, evenly spaced ones are shown.
const MOST_ROWS: usize = 120;

/// The number of digits of a value in the JSON.
const DIGITS: usize = 6;

/// A rendered chart.
pub(crate) struct Figure {
    pub(crate) title: String,
    /// The names of the curves, in the order of their colors.
    pub(crate) names: Vec<String>,
    pub(crate) svg: String,
    pub(crate) json: String,
    pub(crate) values: Values,
}

/// The values of a chart as a table.
pub(crate) struct Values {
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
    /// The number of positions, if not all are shown.
    pub(crate) of: Option<usize>,
}

/// The data for `page.js`.
#[derive(Serialize)]
struct Data<'a> {
    /// The label of the horizontal axis; `epoch` can be converted to steps and minutes.
    x: &'a str,
    x_digits: usize,
    digits: usize,
    from_zero: bool,
    bars: bool,
    curves: Vec<CurveData<'a>>,
    marks: Vec<(f64, &'a str)>,
}

#[derive(Serialize)]
struct CurveData<'a> {
    name: &'a str,
    /// The index of the curve's timeline in the list of the page.
    timeline: usize,
    points: Vec<(f64, f64)>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    notes: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    intervals: Vec<(f64, f64)>,
}

impl Figure {
    /// Renders a chart; curve `i` has timeline `timelines(i)`.
    pub(crate) fn new(
        title: &str,
        chart: &Chart,
        timelines: impl Fn(usize) -> usize,
    ) -> Result<Self> {
        let curves = chart.curves.iter().enumerate();
        let data = Data {
            x: &chart.across.label,
            x_digits: chart.across.digits,
            digits: chart.up.digits,
            from_zero: chart.up.from_zero,
            bars: chart.intervals == Intervals::Bars,
            curves: curves
                .map(|(index, curve)| CurveData::new(curve, timelines(index)))
                .collect(),
            marks: chart
                .marks
                .iter()
                .map(|mark| (rounded(mark.at), mark.text.as_str()))
                .collect(),
        };
        let json = json_in_page(&data).map_err(std::io::Error::from);
        // Readers of screens get the table instead.
        let hidden = "<svg aria-hidden=\"true\" focusable=\"false\" ";
        Ok(Self {
            title: title.to_string(),
            names: chart.curves.iter().map(|c| c.name.clone()).collect(),
            svg: chart.svg()?.replacen("<svg ", hidden, 1),
            json: json.map_err(image::ImageError::IoError)?,
            values: Values::new(chart),
        })
    }
}

impl<'a> CurveData<'a> {
    fn new(curve: &'a Curve, timeline: usize) -> Self {
        let pair = |&(a, b): &(f64, f64)| (rounded(a), rounded(b));
        Self {
            name: &curve.name,
            timeline,
            points: curve.points.iter().map(pair).collect(),
            notes: &curve.notes,
            intervals: curve.intervals.iter().map(pair).collect(),
        }
    }
}

impl Values {
    fn new(chart: &Chart) -> Self {
        let columns = chart.curves.len();
        let mut rows: BTreeMap<u64, (f64, Vec<String>)> = BTreeMap::new();
        for (column, curve) in chart.curves.iter().enumerate() {
            for (at, &(x, y)) in curve.points.iter().enumerate() {
                let value = number(y, chart.up.digits);
                let interval = curve.intervals.get(at).map(|&(low, high)| {
                    let [low, high] = [low, high].map(|end| number(end, chart.up.digits));
                    format!(" ({low} to {high})")
                });
                let note = curve.notes.get(at).map(|note| format!(", {note}"));
                let [interval, note] = [interval, note].map(Option::unwrap_or_default);
                let text = format!("{value}{interval}{note}");
                let row = rows.entry(ordered(x));
                row.or_insert_with(|| (x, vec![String::new(); columns])).1[column] = text;
            }
        }
        let of = rows.len();
        let step = of.div_ceil(MOST_ROWS).max(1);
        let is_shown = |at: usize| (of - 1 - at).is_multiple_of(step); // with the last one
        let rows = rows.into_values().enumerate();
        let rows = rows.filter(|(at, _)| is_shown(*at)).map(|(_, (x, cells))| {
            let position = number(x, chart.across.digits);
            std::iter::once(position).chain(cells).collect()
        });
        let names = chart.curves.iter().map(|curve| curve.name.clone());
        Self {
            head: std::iter::once(chart.across.label.clone())
                .chain(names)
                .collect(),
            rows: rows.collect(),
            of: (step > 1).then_some(of),
        }
    }
}

/// Returns a key that sorts as the value does.
fn ordered(value: f64) -> u64 {
    let bits = value.to_bits();
    if bits >> 63 == 1 {
        !bits
    } else {
        bits | (1 << 63)
    }
}

/// Rounds a value to few digits, to keep pages small.
pub(crate) fn rounded(value: f64) -> f64 {
    format!("{value:.*e}", DIGITS - 1).parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::charts::Axis;

    fn figure(points: Vec<(f64, f64)>) -> Figure {
        let chart = Chart {
            across: Axis::epochs(),
            up: Axis::new("", 2),
            curves: vec![Curve {
                name: "</script>".to_string(),
                points,
                ..Curve::default()
            }],
            size: (300, 200),
            hover: true,
            ..Chart::default()
        };
        Figure::new("title", &chart, |_| 0).unwrap()
    }

    #[test]
    fn the_values_are_in_order_and_bounded() {
        let all = figure(vec![(2.0, 0.5), (1.0, -1.0), (-3.0, 0.0)]).values;
        assert_eq!(all.rows, [["-3", "0.00"], ["1", "-1.00"], ["2", "0.50"]]);
        assert_eq!(all.of, None);
        let many = figure((0..1000).map(|at| (f64::from(at), 1.0)).collect()).values;
        assert!(many.rows.len() <= MOST_ROWS && many.rows.len() > MOST_ROWS / 2);
        assert_eq!(many.of, Some(1000));
        assert_eq!(many.rows.last().unwrap()[0], "999");
    }

    #[test]
    fn the_json_is_short_and_cannot_leave_its_element() {
        let json = figure(vec![(1.0, 1.0 / 3.0), (2.0, f64::NAN)]).json;
        assert!(json.contains("[1.0,0.333333],[2.0,null]"), "{json}");
        assert!(!json.contains('<'));
    }
}
