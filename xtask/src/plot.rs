//! Plots training curves: a metric of one or more runs over epochs or time, as SVG.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use perceiver_report::{Axis, Chart, Curve, names};
use perceiver_train::{EpochMetrics, MetricsFile};

use crate::error::{Result, XtaskError};

/// The metric to plot.
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

    /// Returns the value in the label's unit.
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

/// The horizontal axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// Completed epochs.
    Epoch,
    /// Minutes of training and validation.
    Minutes,
}

/// The options of a plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// The run directories, at most as many as there are colors: 10.
    pub runs: Vec<PathBuf>,
    /// The metric to plot.
    pub metric: Metric,
    /// The horizontal axis.
    pub by: By,
    /// The title above the plot.
    pub title: Option<String>,
}

/// The size of the plot without its legend, in pixels.
const SIZE: (u32, u32) = (720, 450);

impl Plot {
    /// Reads the runs and writes the plot to `output`.
    ///
    /// # Errors
    /// When a run has no readable metrics, there are more runs than colors, or the file cannot be
    /// written.
    pub fn write(&self, output: &Path) -> Result<()> {
        let svg = self.svg()?;
        Ok(perceiver_train::write_file(output, svg.as_bytes())?)
    }

    /// Renders the plot as SVG.
    ///
    /// # Errors
    /// As for [`Plot::write`].
    pub fn svg(&self) -> Result<String> {
        if !(1..=Chart::MOST_CURVES).contains(&self.runs.len()) {
            return Err(XtaskError::TooManyRuns {
                most: Chart::MOST_CURVES,
                found: self.runs.len(),
            });
        }
        let chart = Chart {
            title: self.title.clone(),
            across: match self.by {
                By::Epoch => Axis::epochs(),
                By::Minutes => Axis {
                    from_zero: true, // epochs are numbered from 1
                    ..Axis::new("time (minutes)", 1)
                },
            },
            up: Axis::new(self.metric.label(), 3),
            curves: self.curves()?,
            size: SIZE,
            legend: true,
            ..Chart::default()
        };
        chart.svg().map_err(|error| XtaskError::Io {
            action: "draw",
            path: self.runs[0].clone(),
            source: std::io::Error::other(error.to_string()),
        })
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
                Ok(Curve {
                    name,
                    points,
                    ..Curve::default()
                })
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
}

/// The file name of the metrics.
const METRICS: &str = "metrics.jsonl";

#[cfg(test)]
mod tests {
    use super::*;

    fn line(epoch: usize, val_acc: f64) -> String {
        format!(
            r#"{{"epoch":{epoch},"loss":2.0,"acc":0.3,"top5_acc":0.6,"val_loss":2.5,"val_acc":{val_acc},"val_top5_acc":0.5,"learning_rate":0.001,"seconds":30.0,"images_per_second":100.0}}"#
        )
    }

    /// Creates a directory with runs of these names and metrics.
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
    fn the_plot_is_labelled() {
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
        // The curve, a marker per epoch, and the line in the legend.
        for colour in ["#4E79A7", "#F28E2B"] {
            assert_eq!(svg.matches(colour).count(), 4, "{colour} in {svg}");
        }
    }

    #[test]
    fn every_metric_is_plotted_by_epoch_and_minutes() {
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
    fn minutes_are_cumulative() {
        let metrics = [line(1, 0.1), line(2, 0.2)].join("\n");
        let (_directory, plot) = runs(&[("run", &metrics)]);
        let plot = Plot {
            by: By::Minutes,
            ..plot
        };
        assert_eq!(plot.curves().unwrap()[0].points, [(0.5, 10.0), (1.0, 20.0)]);
    }

    #[test]
    fn invalid_files_are_rejected_with_path_and_line() {
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
}
