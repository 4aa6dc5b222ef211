//! Draws curves of training: a metric of one or more runs, epoch by epoch, as an SVG picture.

use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use perceiver_train::{EpochMetrics, MetricsFile};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::error::{Result, XtaskError};

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Metric {
    /// Validation top-1 accuracy.
    ValAcc,
    /// Validation loss.
    ValLoss,
    /// Training loss.
    Loss,
    /// Training top-1 accuracy.
    Acc,
    /// The learning rate.
    LearningRate,
}

impl Metric {
    fn label(self) -> &'static str {
        match self {
            Self::ValAcc => "validation top-1 accuracy (%)",
            Self::ValLoss => "validation loss (nats)",
            Self::Loss => "training loss (nats)",
            Self::Acc => "training top-1 accuracy (%)",
            Self::LearningRate => "learning rate",
        }
    }

    /// The value in the label's unit.
    fn of(self, epoch: &EpochMetrics) -> f64 {
        match self {
            Self::ValAcc => 100.0 * epoch.val_acc,
            Self::ValLoss => epoch.val_loss,
            Self::Loss => epoch.loss,
            Self::Acc => 100.0 * epoch.acc,
            Self::LearningRate => f64::from(epoch.learning_rate),
        }
    }
}

/// What it is drawn over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// Epochs done.
    Epoch,
    /// Minutes of training and validation.
    Minutes,
}

/// A picture to be drawn.
#[derive(Clone, Debug)]
pub struct Plot {
    /// The directories of the runs, at most as many as there are colours: 10.
    pub runs: Vec<PathBuf>,
    /// What is drawn.
    pub metric: Metric,
    /// Over what.
    pub by: By,
    /// What stands above it.
    pub title: Option<String>,
}

/// A run's curve.
struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
}

/// The colours of Tableau 10, told apart on white, and by most who see fewer colours too.
const COLOURS: [RGBColor; 10] = [
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

/// The size of the plot without its legend, in pixels.
const SIZE: (u32, u32) = (720, 450);

/// Names are cut to so many characters in the legend.
const LONGEST_NAME: usize = 40;

/// Points are marked where there are few of them.
const FEW: usize = 40;

impl Plot {
    /// Reads the runs and writes the picture to `output`.
    ///
    /// # Errors
    /// When a run has no readable metrics, there are more runs than colours, or the file cannot be written.
    pub fn write(&self, output: &Path) -> Result<()> {
        let svg = self.svg()?;
        Ok(perceiver_train::write_file(output, svg.as_bytes())?)
    }

    /// The picture as SVG.
    ///
    /// # Errors
    /// As for [`Plot::write`].
    pub fn svg(&self) -> Result<String> {
        if !(1..=COLOURS.len()).contains(&self.runs.len()) {
            return Err(XtaskError::TooManyRuns {
                most: COLOURS.len(),
                found: self.runs.len(),
            });
        }
        let curves = self.curves()?;
        let mut svg = String::new();
        let longest = curves.iter().map(|curve| curve.name.chars().count()).max();
        let legend = 60 + 8 * longest.unwrap_or(0) as u32;
        let backend = SVGBackend::with_string(&mut svg, (SIZE.0 + legend, SIZE.1));
        let area = backend.into_drawing_area();
        self.draw(&area, &curves)
            .and_then(|()| area.present())
            .map_err(|error| XtaskError::Io {
                action: "draw",
                path: self.runs[0].clone(),
                source: std::io::Error::other(error.to_string()),
            })?;
        drop(area);
        Ok(svg)
    }

    fn curves(&self) -> Result<Vec<Curve>> {
        let names = names(&self.runs).into_iter();
        names
            .zip(&self.runs)
            .map(|(name, run)| {
                let path = run.join(METRICS);
                let epochs = MetricsFile::read(&path)?;
                if epochs.is_empty() {
                    return Err(XtaskError::WrongContent {
                        path,
                        expected: "at least one epoch".to_owned(),
                        found: "none".to_owned(),
                    });
                }
                let points = self.points(&epochs);
                Ok(Curve { name, points })
            })
            .collect()
    }

    fn points(&self, epochs: &[EpochMetrics]) -> Vec<(f64, f64)> {
        let mut seconds = 0.0;
        let points = epochs.iter().map(|epoch| {
            seconds += epoch.seconds;
            let x = match self.by {
                By::Epoch => epoch.epoch as f64,
                By::Minutes => seconds / 60.0,
            };
            (x, self.metric.of(epoch))
        });
        points.collect()
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        curves: &[Curve],
    ) -> std::result::Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        area.fill(&WHITE)?;
        let (plot, legend) = area.split_horizontally(SIZE.0);
        let points = || curves.iter().flat_map(|curve| &curve.points);
        let from = (self.by == By::Minutes).then_some(0.0); // epochs are numbered from 1
        let across = range(points().map(|point| point.0).chain(from), 0.0);
        let up = range(points().map(|point| point.1), 0.05);
        let mut builder = ChartBuilder::on(&plot);
        builder
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(64);
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
            .x_desc(match self.by {
                By::Epoch => "epoch",
                By::Minutes => "time (minutes)",
            })
            .y_desc(self.metric.label())
            .x_labels(10)
            .y_labels(8)
            .x_label_formatter(&|x| match self.by {
                By::Epoch if x.fract() != 0.0 => String::new(), // no half epochs
                By::Epoch => x.to_string(),
                By::Minutes => tick(*x, &across),
            })
            .y_label_formatter(&|y| tick(*y, &up))
            .draw()?;
        for (curve, colour) in curves.iter().zip(COLOURS) {
            let line = curve.points.iter().copied();
            chart.draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?;
            if curve.points.len() <= FEW {
                let marks = line.map(|point| Circle::new(point, 3, colour.filled()));
                chart.draw_series(marks)?;
            }
        }
        draw_legend(&legend, curves)
    }
}

/// A line and a name a curve, one below the other, beside the plot.
fn draw_legend<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    curves: &[Curve],
) -> std::result::Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    for ((curve, colour), row) in curves.iter().zip(COLOURS).zip(0..) {
        let y = 60 + 24 * row;
        let line = vec![(0, y), (24, y)];
        area.draw(&PathElement::new(line, colour.stroke_width(3)))?;
        let style = (FONT, 14).into_font().color(&INK);
        area.draw(&Text::new(curve.name.clone(), (32, y - 7), style))?;
    }
    Ok(())
}

/// Where a run has its metrics.
const METRICS: &str = "metrics.jsonl";

/// The names of directories, or the paths as given where two directories have one name.
fn names(runs: &[PathBuf]) -> Vec<String> {
    let name = |run: &PathBuf| {
        let canonical = run.canonicalize().unwrap_or_else(|_| run.clone()); // `.` has a name too
        canonical.file_name().map_or_else(
            || run.display().to_string(),
            |name| name.to_string_lossy().into(),
        )
    };
    let short: Vec<String> = runs.iter().map(name).collect();
    let unique = |name: &String| short.iter().filter(|other| *other == name).count() == 1;
    let names = short.iter().zip(runs).map(|(name, run)| {
        if unique(name) {
            cut(name)
        } else {
            cut(&run.display().to_string())
        }
    });
    names.collect()
}

/// The end of a name that is too long, which tells runs of a sweep apart.
fn cut(name: &str) -> String {
    let count = name.chars().count();
    if count <= LONGEST_NAME {
        return name.to_string();
    }
    let end = name.chars().skip(count - LONGEST_NAME + 1);
    std::iter::once('…').chain(end).collect()
}

/// From the least to the greatest value, with this share of room on both sides; never empty.
fn range(values: impl Iterator<Item = f64>, room: f64) -> Range<f64> {
    let (least, most) = values.fold(
        (f64::INFINITY, f64::NEG_INFINITY),
        |(least, most), value| (least.min(value), most.max(value)),
    );
    let width = most - least;
    if width > 0.0 {
        return least - room * width..most + room * width;
    }
    let half = if least == 0.0 { 0.5 } else { 0.5 * least.abs() };
    least - half..least + half
}

/// A number at an axis, with as many digits as tell its neighbours apart.
fn tick(value: f64, range: &Range<f64>) -> String {
    let digits = (1.0 - (range.end - range.start).log10()).ceil().max(0.0) as usize;
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(epoch: usize, val_acc: f64) -> String {
        format!(
            r#"{{"epoch":{epoch},"loss":2.0,"acc":0.3,"top5_acc":0.6,"val_loss":2.5,"val_acc":{val_acc},"val_top5_acc":0.5,"learning_rate":0.001,"seconds":30.0,"images_per_second":100.0}}"#
        )
    }

    /// A directory with runs of these names and metrics.
    fn runs(contents: &[(&str, &str)]) -> (tempfile::TempDir, Plot) {
        let directory = tempfile::tempdir().unwrap();
        let paths = contents.iter().map(|(name, metrics)| {
            let run = directory.path().join(name);
            std::fs::create_dir_all(&run).unwrap();
            std::fs::write(run.join(METRICS), metrics).unwrap();
            run
        });
        let plot = Plot {
            runs: paths.collect(),
            metric: Metric::ValAcc,
            by: By::Epoch,
            title: None,
        };
        (directory, plot)
    }

    #[test]
    fn the_picture_names_what_it_shows() {
        let metrics = [line(1, 0.1), line(2, 0.2)].join("\n");
        let (_directory, mut plot) = runs(&[("a<b&c", &metrics), ("other", &metrics)]);
        plot.title = Some("1 < 2".to_string());
        let svg = plot.svg().unwrap();
        for text in [
            "a&lt;b&amp;c",
            "other",
            "1 &lt; 2",
            "epoch",
            "validation top-1 accuracy (%)",
        ] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
        // The curve, a mark an epoch, and the line in the legend.
        for colour in ["#4E79A7", "#F28E2B"] {
            assert_eq!(svg.matches(colour).count(), 4, "{colour} in {svg}");
        }
    }

    #[test]
    fn every_metric_is_drawn_by_epoch_and_by_minutes_of_any_number_of_epochs() {
        for epochs in [1, 2, 200] {
            let metrics: Vec<String> = (1..=epochs)
                .map(|epoch| line(epoch, 1.0 / epoch as f64))
                .collect();
            let (_directory, plot) = runs(&[("run", &metrics.join("\n"))]);
            for &metric in Metric::value_variants() {
                for &by in By::value_variants() {
                    let svg = Plot {
                        metric,
                        by,
                        ..plot.clone()
                    }
                    .svg()
                    .unwrap();
                    assert!(svg.contains(metric.label()), "{svg}");
                    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
                }
            }
        }
    }

    #[test]
    fn minutes_add_up() {
        let metrics = [line(1, 0.1), line(2, 0.2)].join("\n");
        let (_directory, plot) = runs(&[("run", &metrics)]);
        let plot = Plot {
            by: By::Minutes,
            ..plot
        };
        assert_eq!(plot.curves().unwrap()[0].points, [(0.5, 10.0), (1.0, 20.0)]);
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_file_and_line() {
        let half = format!("{}\n{{\"epoch\": 2,\n", line(1, 0.1));
        for (metrics, finding) in [(half.as_str(), "line 2"), ("", "at least one epoch")] {
            let (_directory, plot) = runs(&[("run", metrics)]);
            let error = plot.svg().unwrap_err().to_string();
            assert!(
                error.contains("metrics.jsonl") && error.contains(finding),
                "{error}"
            );
        }
        let (directory, mut plot) = runs(&[]);
        plot.runs = vec![directory.path().join("missing")];
        let output = directory.path().join("out.svg");
        let error = plot.write(&output).unwrap_err().to_string();
        assert!(
            error.contains("cannot read") && error.contains("missing"),
            "{error}"
        );
        assert!(!output.exists());
        plot.runs = vec![PathBuf::from("run"); 11];
        let error = plot.svg().unwrap_err().to_string();
        assert!(error.contains("expected 1 to 10, found 11"), "{error}");
    }

    #[test]
    fn runs_of_one_name_are_told_apart_by_their_paths() {
        let given = ["a/run", "b/run", "c/other"].map(PathBuf::from);
        assert_eq!(names(&given), ["a/run", "b/run", "other"]);
        assert_eq!(cut(&"x".repeat(50)).chars().count(), LONGEST_NAME);
    }
}
