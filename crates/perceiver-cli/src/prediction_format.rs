//! Predictions as text, as a table, as JSON and as CSV.

use std::io::{self, Stdout};

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::terminal;

/// How predictions are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A picture's name, and its classes below it.
    Text,
    /// One table of all, at the end.
    Table,
    /// One JSON object a picture, a line each.
    Json,
    /// Image, rank, class and probability, a class a line.
    Csv,
}

/// The most probable classes of a picture.
#[derive(Debug, Serialize)]
pub(crate) struct Prediction<'a> {
    image: String,
    classes: Vec<Candidate<'a>>,
}

#[derive(Debug, Serialize)]
struct Candidate<'a> {
    class: &'a str,
    probability: f32,
}

impl<'a> Prediction<'a> {
    /// The `k` most probable of `classes`.
    pub(crate) fn new(
        image: String,
        classes: &'a [String],
        probabilities: &[f32],
        k: usize,
    ) -> Self {
        let mut candidates: Vec<Candidate> = classes
            .iter()
            .zip(probabilities)
            .map(|(class, &probability)| Candidate { class, probability })
            .collect();
        candidates.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        candidates.truncate(k);
        Self {
            image,
            classes: candidates,
        }
    }
}

/// Prints predictions on standard output, one after another.
pub(crate) enum Printer {
    Text,
    Table(Table),
    Json,
    Csv(csv::Writer<Stdout>),
}

impl Printer {
    /// A printer that has printed what stands before all predictions.
    ///
    /// # Errors
    /// When nobody listens.
    pub(crate) fn new(format: Format) -> Result<Self> {
        Ok(match format {
            Format::Text => Self::Text,
            Format::Table => {
                let mut table = Table::new();
                table
                    .load_preset(presets::NOTHING)
                    .set_header(["image", "probability", "class"]);
                if let Some(column) = table.column_mut(1) {
                    column.set_cell_alignment(CellAlignment::Right);
                }
                Self::Table(table)
            }
            Format::Json => Self::Json,
            Format::Csv => {
                let mut writer = csv::Writer::from_writer(io::stdout());
                let header = writer.write_record(["image", "rank", "class", "probability"]);
                header.map_err(io::Error::from)?;
                Self::Csv(writer)
            }
        })
    }

    /// Prints a prediction, or keeps it for the table.
    ///
    /// # Errors
    /// When nobody listens.
    pub(crate) fn print(&mut self, prediction: &Prediction) -> Result<()> {
        let Prediction { image, classes } = prediction;
        match self {
            Self::Text => {
                terminal::print(image)?;
                for candidate in classes {
                    let percent = percent(candidate);
                    terminal::print(format_args!("  {percent:>7}  {}", candidate.class))?;
                }
            }
            Self::Table(table) => {
                for (rank, candidate) in classes.iter().enumerate() {
                    let image = if rank == 0 { image.as_str() } else { "" };
                    table.add_row([image, &percent(candidate), candidate.class]);
                }
            }
            Self::Json => terminal::print(serde_json::to_string(prediction)?)?,
            Self::Csv(writer) => {
                for (rank, candidate) in (1_usize..).zip(classes) {
                    let line = (image, rank, candidate.class, candidate.probability);
                    writer.serialize(line).map_err(io::Error::from)?;
                }
                writer.flush()?;
            }
        }
        Ok(())
    }

    /// Prints what was kept.
    ///
    /// # Errors
    /// When nobody listens.
    pub(crate) fn finish(self) -> Result<()> {
        match self {
            Self::Table(table) => terminal::print(table.trim_fmt())?,
            Self::Csv(mut writer) => writer.flush()?,
            Self::Text | Self::Json => {}
        }
        Ok(())
    }
}

fn percent(candidate: &Candidate) -> String {
    format!("{:.2}%", 100.0 * candidate.probability)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_probable_classes_come_first_and_no_more_than_asked_for() {
        let classes = ["ant", "bee", "cat"].map(String::from);
        let of = |k| Prediction::new("x.png".into(), &classes, &[0.25, 0.0, 0.75], k);
        let names = |prediction: &Prediction| {
            let candidates = prediction.classes.iter();
            candidates
                .map(|candidate| candidate.class.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&of(2)), ["cat", "ant"]);
        assert_eq!(names(&of(9)), ["cat", "ant", "bee"]);
        assert_eq!(
            serde_json::to_string(&of(1)).unwrap(),
            r#"{"image":"x.png","classes":[{"class":"cat","probability":0.75}]}"#
        );
    }
}
