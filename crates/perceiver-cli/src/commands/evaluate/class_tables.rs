//! CSV tables of an evaluation by class: the confusion matrix, and precision, recall, F1 and support.

use anyhow::{Error, Result};
use perceiver_train::{ClassificationReport, ConfusionMatrix};

/// The names of the rows of averages, as in scikit-learn's reports.
const AVERAGES: [&str; 2] = ["macro avg", "weighted avg"];

/// Returns the confusion matrix as CSV: a row per true class and a column per predicted class, with
/// the names of `classes` in the header and in the first column.
pub(super) fn confusion_csv(matrix: &ConfusionMatrix, classes: &[String]) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let names = classes.iter().map(String::as_str);
    writer.write_record(std::iter::once("true class").chain(names))?;
    for (label, name) in (0..).zip(classes) {
        let counts = (0..classes.len() as u32).map(|predicted| matrix.count(label, predicted));
        writer.write_field(name)?;
        writer.write_record(counts.map(|count| count.to_string()))?;
    }
    finished(writer)
}

/// Returns the metrics of every class as CSV, and in the last two rows their averages. A class
/// without images or predictions has zeros.
pub(super) fn per_class_csv(report: &ClassificationReport, classes: &[String]) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["class", "precision", "recall", "f1", "support"])?;
    for (class, name) in (0..).zip(classes) {
        let of = report.class(class);
        writer.serialize((name, of.precision, of.recall, of.f1, of.support))?;
    }
    for (name, of) in AVERAGES
        .into_iter()
        .zip([report.macro_average, report.weighted_average])
    {
        writer.serialize((name, of.precision, of.recall, of.f1, of.support))?;
    }
    finished(writer)
}

/// Returns what a writer has written.
pub(super) fn finished(writer: csv::Writer<Vec<u8>>) -> Result<Vec<u8>> {
    let bytes = writer.into_inner();
    bytes.map_err(|error| Error::msg(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: [&str; 3] = ["a, \"b\"", "c\r\nd", "\u{1b}[2J=1+1"];

    fn names() -> Vec<String> {
        HOSTILE.map(ToString::to_string).to_vec()
    }

    fn rows(bytes: &[u8]) -> Vec<Vec<String>> {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(bytes);
        let rows = reader.records().map(|row| {
            let row = row.unwrap();
            row.iter().map(ToString::to_string).collect()
        });
        rows.collect()
    }

    #[test]
    fn any_class_name_round_trips_in_the_header_and_the_first_column() {
        let matrix = ConfusionMatrix::of_pairs([(0, 0), (0, 2), (2, 1)]);
        let rows = rows(&confusion_csv(&matrix, &names()).unwrap());
        assert_eq!(rows[0][1..], HOSTILE);
        assert_eq!(rows[0][0], "true class");
        let first: Vec<&str> = rows[1..].iter().map(|row| row[0].as_str()).collect();
        assert_eq!(first, HOSTILE);
        let counts: Vec<&[String]> = rows[1..].iter().map(|row| &row[1..]).collect();
        assert_eq!(counts, [["1", "0", "1"], ["0", "0", "0"], ["0", "1", "0"]]);
    }
}
