//! Output formats of predictions: text, table, JSON and CSV.

use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::path::Path;

use anyhow::{Error, Result};
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use perceiver_train::ClassProbability;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::Serialize;

use crate::ui::escape;
use crate::ui::terminal;

/// The output format of predictions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Image name, with its classes below it.
    Text,
    /// A single table, printed at the end.
    Table,
    /// One JSON object per image, one per line.
    Json,
    /// Columns image, rank, class, probability and `image_percent_encoded`, one class per line.
    Csv,
}

/// The characters that percent encoding keeps.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'.')
    .remove(b'-')
    .remove(b'_')
    .remove(b'~');

/// Percent-encodes a name that is not valid UTF-8, which JSON and CSV cannot hold (`%FF`); `None`
/// for other names.
pub(crate) fn percent_encoded(name: &OsStr) -> Option<String> {
    let encode = || percent_encode(name.as_encoded_bytes(), PLAIN).to_string();
    name.to_str().is_none().then(encode)
}

/// The most probable classes of an image.
#[derive(Debug, Serialize)]
pub(crate) struct Prediction<'a> {
    #[serde(skip)]
    path: &'a Path,
    /// The path, with invalid UTF-8 replaced.
    image: String,
    /// Present only if something was replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    image_percent_encoded: Option<String>,
    classes: Vec<ClassProbability<'a>>,
}

impl<'a> Prediction<'a> {
    /// Creates a prediction of these classes, the most probable first.
    pub(crate) fn new(
        path: &'a Path,
        classes: impl IntoIterator<Item = ClassProbability<'a>>,
    ) -> Self {
        Self {
            path,
            image: path.to_string_lossy().into_owned(),
            image_percent_encoded: percent_encoded(path.as_os_str()),
            classes: classes.into_iter().collect(),
        }
    }
}

/// Prints predictions one by one to standard output.
pub(crate) enum Printer {
    Text,
    Table(Table),
    Json,
    Csv {
        /// Whether names are escaped for people.
        on_terminal: bool,
    },
}

/// The header of the CSV output.
const HEADER: [&str; 5] = [
    "image",
    "rank",
    "class",
    "probability",
    "image_percent_encoded",
];

/// Prints what `fill` writes to a CSV writer.
fn print_csv(fill: impl FnOnce(&mut csv::Writer<Vec<u8>>) -> csv::Result<()>) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    fill(&mut writer)?;
    let lines = writer
        .into_inner()
        .map_err(|error| Error::msg(error.to_string()))?;
    Ok(terminal::write(&lines)?)
}

impl Printer {
    /// Creates a printer and prints the header, if the format has one.
    ///
    /// # Errors
    /// On a broken pipe.
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

    /// Prints a prediction, or buffers it for the table.
    ///
    /// # Errors
    /// On a broken pipe.
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
                    // Only the first class shows the image name.
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

    /// Prints the buffered table.
    ///
    /// # Errors
    /// On a broken pipe.
    pub(crate) fn finish(self) -> Result<()> {
        match self {
            Self::Table(table) => terminal::print(table.trim_fmt())?,
            Self::Text | Self::Json | Self::Csv { .. } => {}
        }
        Ok(())
    }
}

impl Prediction<'_> {
    /// Writes one CSV line per class, with names verbatim or, for people, escaped.
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

fn percent(candidate: &ClassProbability) -> String {
    format!("{:.2}%", 100.0 * candidate.probability)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cat() -> [ClassProbability<'static>; 1] {
        [ClassProbability {
            class: "cat",
            probability: 0.75,
        }]
    }

    #[test]
    fn a_prediction_is_one_json_object() {
        let prediction = Prediction::new(Path::new("x.png"), cat());
        assert_eq!(
            serde_json::to_string(&prediction).unwrap(),
            r#"{"image":"x.png","classes":[{"class":"cat","probability":0.75}]}"#
        );
    }

    #[cfg(unix)]
    #[test]
    fn non_utf8_names_are_percent_encoded() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(OsStr::from_bytes(b"a b/\xff%.png"));
        let prediction = Prediction::new(path, cat());
        let json = serde_json::to_value(&prediction).unwrap();
        assert_eq!(json["image"], "a b/\u{fffd}%.png");
        assert_eq!(json["image_percent_encoded"], "a%20b/%FF%25.png");
        let mut writer = csv::Writer::from_writer(Vec::new());
        prediction.lines(&mut writer, false).unwrap();
        let line = String::from_utf8(writer.into_inner().unwrap()).unwrap();
        assert_eq!(line, "a b/\u{fffd}%.png,1,cat,0.75,a%20b/%FF%25.png\n");
    }
}
