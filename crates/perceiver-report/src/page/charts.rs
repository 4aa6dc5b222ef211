//! Line charts as SVG: for reports, comparisons and the plots of the documentation.
//!
//! A chart has fixed colors. A page maps them to its theme by name in CSS, as `page.css` does:
//! `[stroke="#4E79A7"] { stroke: var(--curve-1) }`.

use std::ops::Range;

use askama::Template;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::{ReportError, Result};

/// A named curve.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    /// The name in the legend.
    pub name: String,
    /// The points, from left to right.
    pub points: Vec<(f64, f64)>,
    /// Additional text per point, shown on hover; may be empty.
    pub notes: Vec<String>,
    /// The interval of each point, from low to high; may be empty.
    pub intervals: Vec<(f64, f64)>,
    /// A short text at the foot of each interval bar; may be empty.
    pub labels: Vec<String>,
}

/// The way a chart draws the intervals of its curves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Intervals {
    /// A translucent band around the curve.
    #[default]
    Band,
    /// A vertical line through each point; the points are not connected.
    Bars,
}

/// A mark at a position of the horizontal axis, such as a warning.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mark {
    /// The position.
    pub at: f64,
    /// The text, shown on hover.
    pub text: String,
}

/// The options of an axis.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Axis {
    /// The label with its unit; empty if the title says it.
    pub label: String,
    /// The range of values; by default that of the points.
    pub range: Option<Range<f64>>,
    /// Whether the default range starts at 0.
    pub from_zero: bool,
    /// Whether only integers are labeled.
    pub whole: bool,
    /// The number of digits of values after the decimal point.
    pub digits: usize,
}

/// A line chart: curves that share their axes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    /// The title above the chart.
    pub title: Option<String>,
    /// The horizontal axis.
    pub across: Axis,
    /// The vertical axis.
    pub up: Axis,
    /// The curves, at most [`Chart::MOST_CURVES`], each with its own color.
    pub curves: Vec<Curve>,
    /// A thin reference line.
    pub guide: Option<[(f64, f64); 2]>,
    /// The width and height in pixels, without the legend.
    pub size: (u32, u32),
    /// Whether to draw a legend.
    pub legend: bool,
    /// Marks on the horizontal axis.
    pub marks: Vec<Mark>,
    /// The way intervals are drawn.
    pub intervals: Intervals,
    /// Whether a page shows values on hover and redraws the chart: adds the place and the range of
    /// the plot to the SVG.
    pub hover: bool,
}

/// The Tableau 10 palette: distinguishable on white, also for most color-blind readers.
const COLOURS: [RGBColor; Chart::MOST_CURVES] = [
    RGBColor(0x4e, 0x79, 0xa7),
    RGBColor(0xf2, 0x8e, 0x2b),
    RGBColor(0xe1, 0x57, 0x59),
    RGBColor(0x76, 0xb7, 0xb2),
    RGBColor(0x59, 0xa1, 0x4f),
    RGBColor(0xed, 0xc9, 0x48),
    RGBColor(0xb0, 0x7a, 0xa1),
    RGBColor(0xff, 0x9d, 0xa7),
    RGBColor(0x9c, 0x75, 0x5f),
    RGBColor(0x6b, 0x6b, 0x6b),
];

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

/// The maximum number of points that are drawn with markers.
const FEW: usize = 40;

/// The maximum absolute value that is drawn; larger ones overflow the arithmetic of axes.
const FARTHEST: f64 = 1e100;

/// The minimum width of an axis relative to its values. On a narrower one, adding a tick step would
/// not change the sum, and the loop over ticks would not end.
const NARROWEST: f64 = 1e-9;

/// Types of plotters: drawing area, chart and result.
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawing<T> = std::result::Result<T, DrawingAreaErrorKind<std::io::Error>>;

/// The top of a chart on a page: the place and the range of the plot, and the marks.
#[derive(Template)]
#[template(
    ext = "svg",
    escape = "html",
    source = r#"<g class="overlay" data-plot="{{ left }} {{ top }} {{ right }} {{ bottom }}" data-range="{{ x.start }} {{ x.end }} {{ y.start }} {{ y.end }}">
{%- for mark in marks %}
<g class="mark"><title>{{ mark.text }}</title><line x1="{{ mark.x }}" x2="{{ mark.x }}" y1="{{ top }}" y2="{{ bottom }}"/><path d="M{{ mark.x }} {{ top }}l-6 -10h12z"/></g>
{%- endfor %}
</g>
"#
)]
struct Overlay {
    left: i32,
    top: i32,
    right: i32,
    bottom: i32,
    x: Range<f64>,
    y: Range<f64>,
    marks: Vec<DrawnMark>,
}

/// A mark with its x coordinate.
struct DrawnMark {
    x: i32,
    text: String,
}

impl Axis {
    /// Creates an axis that fits its points.
    pub fn new(label: impl Into<String>, digits: usize) -> Self {
        Self {
            label: label.into(),
            range: None,
            from_zero: false,
            whole: false,
            digits,
        }
    }

    /// Creates an axis of epochs.
    pub fn epochs() -> Self {
        Self {
            whole: true,
            ..Self::new("epoch", 0)
        }
    }

    fn range(&self, values: impl Iterator<Item = f64>, room: f64) -> Range<f64> {
        let zero = self.from_zero.then_some(0.0);
        let range = || range(values.chain(zero), room);
        self.range.clone().unwrap_or_else(range)
    }

    fn tick(&self, value: f64, range: &Range<f64>) -> String {
        match self.whole {
            true if value.fract() != 0.0 => String::new(), // no half epochs
            true => value.to_string(),
            false => tick(value, range),
        }
    }
}

impl Chart {
    /// The maximum number of curves: the number of colors.
    pub const MOST_CURVES: usize = 10;

    /// Renders the chart as a complete SVG image.
    ///
    /// # Errors
    /// When there is no point, or there are more curves than colors.
    pub fn svg(&self) -> Result<String> {
        let failed = |finding: String| ReportError::Chart {
            chart: self.title.clone().unwrap_or(self.up.label.clone()),
            finding,
        };
        if self.curves.len() > Self::MOST_CURVES {
            let (most, found) = (Self::MOST_CURVES, self.curves.len());
            return Err(failed(format!(
                "expected 1 to {most} curves, found {found}"
            )));
        }
        if self.points().next().is_none() {
            return Err(failed(
                "expected at least one point, found none".to_string(),
            ));
        }
        let longest = self.curves.iter().map(|curve| curve.name.chars().count());
        let legend = 60 + 8 * longest.max().unwrap_or(0) as u32;
        let width = self.size.0 + if self.legend { legend } else { 0 };
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, (width, self.size.1)).into_drawing_area();
        let drawn = self.draw(&area);
        let drawn = drawn.and_then(|overlay| area.present().map(|()| overlay));
        let overlay = drawn.map_err(|error| failed(error.to_string()))?;
        drop(area);
        if self.hover {
            let end = svg.rfind("</svg>").unwrap_or(svg.len());
            svg.insert_str(end, &overlay.render()?);
        }
        Ok(svg)
    }

    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.curves
            .iter()
            .flat_map(|curve| curve.points.iter().copied())
    }

    /// Returns all values of the vertical axis: points and ends of intervals.
    fn values(&self) -> impl Iterator<Item = f64> {
        let points = self.points().map(|point| point.1);
        let intervals = self.curves.iter().flat_map(|curve| &curve.intervals);
        points.chain(intervals.flat_map(|&(low, high)| [low, high]))
    }

    fn draw(&self, area: &Area<'_>) -> Drawing<Overlay> {
        area.fill(&WHITE)?;
        let (plot, legend) = area.split_horizontally(self.size.0);
        let across = self.across.range(self.points().map(|point| point.0), 0.0);
        let up = self.up.range(self.values(), 0.05);
        let mut builder = ChartBuilder::on(&plot);
        builder
            .margin_top(14)
            .margin_right(16)
            .margin_bottom(2)
            .margin_left(6)
            .x_label_area_size(if self.across.label.is_empty() { 26 } else { 42 })
            .y_label_area_size(if self.up.label.is_empty() { 48 } else { 64 });
        if let Some(title) = &self.title {
            builder.caption(title, (FONT, 18).into_font().color(&INK));
        }
        let mut chart = builder.build_cartesian_2d(across.clone(), up.clone())?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style((FONT, 13).into_font().color(&INK))
            .axis_desc_style((FONT, 14).into_font().color(&INK))
            .x_desc(&self.across.label)
            .y_desc(&self.up.label)
            .x_labels(10)
            .y_labels(8)
            .x_label_formatter(&|x| self.across.tick(*x, &across))
            .y_label_formatter(&|y| self.up.tick(*y, &up))
            .draw()?;
        if let Some(guide) = self.guide {
            chart.draw_series(LineSeries::new(guide, INK.stroke_width(1)))?;
        }
        for (number, curve) in self.curves.iter().enumerate() {
            self.draw_curve(&mut chart, curve, number, &up)?;
        }
        if self.legend {
            self.draw_legend(&legend)?;
        }
        Ok(self.overlay(&chart, across, up))
    }

    /// Draws a curve with its intervals, and a marker per point if there are few.
    fn draw_curve(
        &self,
        chart: &mut Drawn<'_>,
        curve: &Curve,
        number: usize,
        up: &Range<f64>,
    ) -> Drawing<()> {
        let colour = COLOURS[number];
        let points = curve.points.iter().copied();
        let points = points.filter(|&(x, y)| is_drawable(x) && is_drawable(y));
        let ends = curve.points.iter().zip(&curve.intervals);
        let ends = ends.filter(|(_, ends)| is_drawable(ends.0) && is_drawable(ends.1));
        match self.intervals {
            Intervals::Bars => {
                let bars = ends.map(|(&(x, _), &(low, high))| {
                    PathElement::new([(x, low), (x, high)], colour.stroke_width(2))
                });
                chart.draw_series(bars)?;
                // In two rows, as they are wider than the distance of bins.
                let style = (FONT, 12).into_font().color(&INK);
                let style = style.pos(Pos::new(HPos::Center, VPos::Center));
                let labels = curve.points.iter().zip(&curve.labels).enumerate();
                let labels = labels.map(|(at, (&(x, _), text))| {
                    let row = if at % 2 == 0 { 0.045 } else { 0.1 };
                    let y = up.start + row * (up.end - up.start);
                    Text::new(text.clone(), (x, y), style.clone())
                });
                chart.draw_series(labels)?;
            }
            Intervals::Band => {
                let (low, high): (Vec<_>, Vec<_>) = ends
                    .map(|(&(x, _), &(low, high))| ((x, low), (x, high)))
                    .unzip();
                let outline: Vec<(f64, f64)> =
                    low.into_iter().chain(high.into_iter().rev()).collect();
                if !outline.is_empty() {
                    chart.draw_series([Polygon::new(outline, colour.mix(0.2).filled())])?;
                }
                chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
            }
        }
        if curve.points.len() <= FEW {
            // Markers differ in form, so that coinciding curves can be told apart.
            let style = colour.filled();
            match number % 3 {
                0 => chart.draw_series(points.map(|point| Circle::new(point, 3, style)))?,
                1 => chart.draw_series(points.map(|point| TriangleMarker::new(point, 4, style)))?,
                _ => chart.draw_series(points.map(|point| Cross::new(point, 3, colour)))?,
            };
        }
        Ok(())
    }

    /// Draws a line and a name per curve beside the plot.
    fn draw_legend(&self, area: &Area<'_>) -> Drawing<()> {
        for ((curve, colour), row) in self.curves.iter().zip(COLOURS).zip(0..) {
            let y = 60 + 24 * row;
            let line = vec![(0, y), (24, y)];
            area.draw(&PathElement::new(line, colour.stroke_width(3)))?;
            let style = (FONT, 14).into_font().color(&INK);
            area.draw(&Text::new(curve.name.clone(), (32, y - 7), style))?;
        }
        Ok(())
    }

    fn overlay(&self, chart: &Drawn<'_>, x: Range<f64>, y: Range<f64>) -> Overlay {
        let (across, up) = chart.plotting_area().get_pixel_range();
        let marks = self.marks.iter().filter(|mark| is_drawable(mark.at));
        let marks = marks.map(|mark| DrawnMark {
            x: chart
                .backend_coord(&(mark.at, y.start))
                .0
                .clamp(across.start, across.end),
            text: mark.text.clone(),
        });
        Overlay {
            left: across.start,
            top: up.start,
            right: across.end,
            bottom: up.end,
            marks: marks.collect(),
            x,
            y,
        }
    }
}

fn is_drawable(value: f64) -> bool {
    value.abs() <= FARTHEST // false for NaN
}

/// Formats a value with `digits` digits after the point, or with an exponent if it is too small or
/// too large for that.
pub(crate) fn number(value: f64, digits: usize) -> String {
    let is_small = value != 0.0 && value.abs() < 0.1_f64.powf(digits as f64);
    if is_small || value.abs() >= 1e9 {
        return format!("{value:.2e}");
    }
    format!("{value:.digits$}")
}

/// Returns the range of the drawable values, extended by the share `room` on both sides. It is
/// never empty, nor narrower than ticks need.
fn range(values: impl Iterator<Item = f64>, room: f64) -> Range<f64> {
    let (least, most) = values.filter(|&value| is_drawable(value)).fold(
        (f64::INFINITY, f64::NEG_INFINITY),
        |(least, most), value| (least.min(value), most.max(value)),
    );
    let width = most - least;
    if width > NARROWEST * least.abs().max(most.abs()) {
        return least - room * width..most + room * width;
    }
    let only = if least.is_finite() { least } else { 0.0 };
    let half = if only == 0.0 { 0.5 } else { 0.5 * only.abs() };
    only - half..only + half
}

/// Formats a tick label with enough digits to distinguish it from its neighbors: `0.25`, `3e-4`.
fn tick(value: f64, range: &Range<f64>) -> String {
    let span = range.end - range.start;
    // Ticks are sums with rounding errors.
    if value.abs() < 1e-6 * span {
        return "0".to_string();
    }
    if span < 0.01 {
        // The axis has no room for many zeros.
        let rounded: f64 = format!("{value:.2e}").parse().unwrap_or(value);
        return format!("{rounded:e}");
    }
    if span >= 1e9 {
        return format!("{value:.1e}");
    }
    let digits = (1.0 - span.log10()).ceil().max(0.0) as usize;
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_short() {
        let shown = |values: [f64; 3], range: Range<f64>| values.map(|value| tick(value, &range));
        let rates = shown([1e-19, 0.000_300_000_001, 0.00095], 0.0..0.001);
        assert_eq!(rates, ["0", "3e-4", "9.5e-4"]);
        assert_eq!(shown([0.0, 2.5, 7.0], 0.0..7.0), ["0", "2.5", "7.0"]);
        assert_eq!(shown([0.0, 20.0, 60.0], 0.0..80.0), ["0", "20", "60"]);
    }

    fn chart(points: &[(f64, f64)]) -> Chart {
        let curve = Curve {
            name: "a<b".to_string(),
            points: points.to_vec(),
            ..Curve::default()
        };
        Chart {
            title: Some("1 < 2".to_string()),
            across: Axis::epochs(),
            up: Axis::new("loss", 3),
            curves: vec![curve],
            size: (400, 300),
            legend: true,
            hover: true,
            ..Chart::default()
        }
    }

    #[test]
    fn names_and_marks_are_escaped() {
        let mut chart = chart(&[(1.0, 2.5), (2.0, 1.25)]);
        chart.marks = vec![Mark {
            at: 2.0,
            text: "<script>".to_string(),
        }];
        let svg = chart.svg().unwrap();
        assert!(!svg.contains("<script>") && !svg.contains("a<b"), "{svg}");
        assert_eq!(svg.matches("class=\"mark\"").count(), 1);
        assert!(svg.contains("data-range=\"1 2 "), "{svg}");
        assert!(svg.trim_end().ends_with("</svg>"), "{svg}");
    }

    #[test]
    fn intervals_are_bands_or_bars() {
        let mut chart = chart(&[(1.0, 2.5), (2.0, 1.25)]);
        chart.curves[0].intervals = vec![(2.0, 3.0), (1.0, 1.5)];
        let lines = |svg: &str| svg.matches("<polyline").count();
        let band = chart.svg().unwrap();
        assert_eq!(band.matches("<polygon").count(), 1);
        chart.intervals = Intervals::Bars;
        let bars = chart.svg().unwrap();
        assert_eq!(bars.matches("<polygon").count(), 0);
        assert_eq!(
            lines(&bars),
            lines(&band) + 1,
            "two bars instead of one curve"
        );
    }

    #[test]
    fn any_points_are_drawn_and_no_points_are_an_error() {
        for points in [
            vec![(1.0, 0.0)],
            vec![(1.0, 1e-30), (2.0, 1e30)],
            vec![(1.0, f64::NAN), (2.0, 1.0)],
            (0..500).map(|at| (f64::from(at), 3.0)).collect(),
        ] {
            let svg = chart(&points).svg().unwrap();
            assert!(
                svg.contains("class=\"overlay\"") && !svg.contains("NaN"),
                "{svg}"
            );
        }
        let error = chart(&[]).svg().unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot draw 1 < 2: expected at least one point, found none"
        );
    }

    /// `plotters` steps from tick to tick, and never ends if a step is lost to rounding.
    #[test]
    fn values_outside_of_any_axis_are_omitted() {
        for values in [
            [1e308, -1e308],
            [f64::MAX, f64::MIN],
            [f64::INFINITY, f64::NEG_INFINITY],
            [1e100, -1e100],
            [1e16, 1e16 + 2.0],
            [1.0, 1.0 + f64::EPSILON],
            [5e-324, 0.0],
        ] {
            let points = |[a, b]: [f64; 2]| [(1.0, a), (2.0, b), (3.0, 0.5 * a)];
            let svg = chart(&points(values)).svg().unwrap();
            assert!(svg.len() < 100_000, "{values:?}");
            let across = points(values).map(|(x, y)| (y, x));
            let svg = chart(&across).svg().unwrap();
            assert!(svg.len() < 100_000, "{values:?}");
        }
        let svg = chart(&[(1.0, 1e308), (2.0, 0.5)]).svg().unwrap();
        assert_eq!(svg.matches("<circle").count(), 1);
    }

    #[test]
    fn small_values_keep_their_digits() {
        assert_eq!(number(0.000_123, 3), "1.23e-4");
        assert_eq!(number(0.0, 3), "0.000");
        assert_eq!(number(12.345_6, 2), "12.35");
    }
}
