//! Predictions as text, as a table, as JSON and as CSV.

use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::path::Path;

use anyhow::{Error, Result};
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::Serialize;

use crate::escape;
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
    /// Image, rank, class, probability and `image_percent_encoded`, a class a line.
    Csv,
}

/// What stays as it is in a path that is percent-encoded.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'.')
    .remove(b'-')
    .remove(b'_')
    .remove(b'~');

/// The bytes of a name that is no UTF-8, which JSON and CSV could not hold, as `%FF`; none of other names.
pub(crate) fn percent_encoded(name: &OsStr) -> Option<String> {
    let encode = || percent_encode(name.as_encoded_bytes(), PLAIN).to_string();
    name.to_str().is_none().then(encode)
}

/// The most probable classes of a picture.
#[derive(Debug, Serialize)]
pub(crate) struct Prediction<'a> {
    #[serde(skip)]
    path: &'a Path,
    /// The path; what is no UTF-8 in it is replaced.
    image: String,
    /// Only where something was replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    image_percent_encoded: Option<String>,
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
        path: &'a Path,
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
            path,
            image: path.to_string_lossy().into_owned(),
            image_percent_encoded: percent_encoded(path.as_os_str()),
            classes: candidates,
        }
    }
}

/// Prints predictions on standard output, one after another.
pub(crate) enum Printer {
    Text,
    Table(Table),
    Json,
    Csv {
        /// Whether names are escaped, as people read them.
        on_terminal: bool,
    },
}

/// The first line of predictions as CSV.
const HEADER: [&str; 5] = [
    "image",
    "rank",
    "class",
    "probability",
    "image_percent_encoded",
];

/// Prints what is written to a CSV writer.
fn print_csv(fill: impl FnOnce(&mut csv::Writer<Vec<u8>>) -> csv::Result<()>) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    fill(&mut writer)?;
    let lines = writer
        .into_inner()
        .map_err(|error| Error::msg(error.to_string()))?;
    Ok(terminal::write(&lines)?)
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
                print_csv(|writer| writer.write_record(HEADER))?;
                Self::Csv {
                    on_terminal: io::stdout().is_terminal(),
                }
            }
        })
    }

    /// Prints a prediction, or keeps it for the table.
    ///
    /// # Errors
    /// When nobody listens.
    pub(crate) fn print(&mut self, prediction: &Prediction) -> Result<()> {
        let classes = &prediction.classes;
        match self {
            Self::Text => {
                terminal::print(escape::os(prediction.path.as_os_str()))?;
                for candidate in classes {
                    let (percent, class) = (percent(candidate), escape::line(candidate.class));
                    terminal::print(format_args!("  {percent:>7}  {class}"))?;
                }
            }
            Self::Table(table) => {
                let mut image = escape::os(prediction.path.as_os_str());
                for candidate in classes {
                    let class = escape::line(candidate.class).into_owned();
                    // The name stands at the first class alone.
                    table.add_row([std::mem::take(&mut image), percent(candidate), class]);
                }
            }
            Self::Json => terminal::print_json(prediction, false)?,
            Self::Csv { on_terminal } => {
                print_csv(|writer| prediction.lines(writer, *on_terminal))?;
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
            Self::Text | Self::Json | Self::Csv { .. } => {}
        }
        Ok(())
    }
}

impl Prediction<'_> {
    /// A line of CSV a class, with names as they are or, for people, escaped.
    fn lines(&self, writer: &mut csv::Writer<Vec<u8>>, escaped: bool) -> csv::Result<()> {
        let shown = |name| {
            if escaped {
                escape::line(name)
            } else {
                name.into()
            }
        };
        for (rank, candidate) in (1_usize..).zip(&self.classes) {
            writer.serialize((
                shown(&self.image),
                rank,
                shown(candidate.class),
                candidate.probability,
                self.image_percent_encoded.as_deref().unwrap_or_default(),
            ))?;
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
        let of = |k| Prediction::new(Path::new("x.png"), &classes, &[0.25, 0.0, 0.75], k);
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
    #[cfg(unix)]
    #[test]
    fn a_name_that_is_no_text_can_be_found_again() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(OsStr::from_bytes(b"a b/\xff%.png"));
        let classes = ["cat".to_string()];
        let prediction = Prediction::new(path, &classes, &[1.0], 1);
        let json = serde_json::to_value(&prediction).unwrap();
        assert_eq!(json["image"], "a b/\u{fffd}%.png");
        assert_eq!(json["image_percent_encoded"], "a%20b/%FF%25.png");
        let mut writer = csv::Writer::from_writer(Vec::new());
        prediction.lines(&mut writer, false).unwrap();
        let line = String::from_utf8(writer.into_inner().unwrap()).unwrap();
        assert_eq!(line, "a b/\u{fffd}%.png,1,cat,1.0,a%20b/%FF%25.png\n");
    }
}
