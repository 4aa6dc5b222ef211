//! The predictions of an evaluation with class names and the most probable classes, as CSV or JSON.

use std::path::Path;

use anyhow::Result;
use perceiver_train::Prediction;
use serde::Serialize;

use crate::commands::evaluate::class_tables::finished;

/// The format of a file of predictions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Csv,
    Json,
}

impl Format {
    /// Returns the format of a file by its extension, if it is `.csv` or `.json`.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?;
        match extension.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// The most probable classes of every image, the most probable first; ties in order of class.
#[derive(Debug, Default)]
pub(super) struct TopClasses {
    k: usize,
    /// By index of the image.
    of_images: Vec<Vec<(u32, f32)>>,
}

impl TopClasses {
    /// Creates an empty list of the `k` most probable classes.
    pub(super) fn new(k: usize) -> Self {
        Self {
            k,
            ..Self::default()
        }
    }

    /// Adds the next image.
    pub(super) fn push(&mut self, probabilities: &[f32]) {
        let mut classes: Vec<(u32, f32)> = (0..).zip(probabilities.iter().copied()).collect();
        classes.sort_by(|a, b| b.1.total_cmp(&a.1));
        classes.truncate(self.k);
        self.of_images.push(classes);
    }
}

/// All predictions of an evaluation.
pub(super) struct Predictions<'a> {
    pub(super) all: &'a [Prediction],
    pub(super) top: &'a TopClasses,
    pub(super) classes: &'a [String],
    /// The image names, if the data set has any.
    pub(super) names: Option<&'a [String]>,
}

/// A prediction in the JSON file.
#[derive(Debug, Serialize)]
struct Row<'a> {
    image: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    true_class: &'a str,
    predicted_class: &'a str,
    probability: f32,
    true_class_probability: f32,
    true_class_rank: u32,
    top_k: Vec<Candidate<'a>>,
}

#[derive(Debug, Serialize)]
struct Candidate<'a> {
    class: &'a str,
    probability: f32,
}

impl<'a> Predictions<'a> {
    /// Returns the content of a file in this format.
    pub(super) fn encoded(&self, format: Format) -> Result<Vec<u8>> {
        match format {
            Format::Csv => self.csv(),
            Format::Json => {
                let rows: Vec<Row> = self.rows().collect();
                let mut json = serde_json::to_vec_pretty(&rows)?;
                json.push(b'\n');
                Ok(json)
            }
        }
    }

    /// One line per image, with a pair of columns for each of the most probable classes.
    fn csv(&self) -> Result<Vec<u8>> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let mut header = vec!["image".to_string()];
        header.extend(self.names.map(|_| "path".to_string()));
        header.extend(
            [
                "true_class",
                "predicted_class",
                "probability",
                "true_class_probability",
                "true_class_rank",
            ]
            .map(String::from),
        );
        for rank in 1..=self.top.k.min(self.classes.len()) {
            header.extend([format!("top{rank}_class"), format!("top{rank}_probability")]);
        }
        writer.write_record(&header)?;
        for row in self.rows() {
            let mut fields = vec![row.image.to_string()];
            fields.extend(row.path.map(String::from));
            fields.extend([
                row.true_class.to_string(),
                row.predicted_class.to_string(),
                row.probability.to_string(),
                row.true_class_probability.to_string(),
                row.true_class_rank.to_string(),
            ]);
            for candidate in &row.top_k {
                fields.extend([
                    candidate.class.to_string(),
                    candidate.probability.to_string(),
                ]);
            }
            writer.write_record(&fields)?;
        }
        finished(writer)
    }

    fn rows(&self) -> impl Iterator<Item = Row<'a>> {
        let (classes, names) = (self.classes, self.names);
        let name = move |class: u32| classes.get(class as usize).map_or("", String::as_str);
        let rows = self.all.iter().zip(&self.top.of_images);
        rows.map(move |(prediction, top)| Row {
            image: prediction.image,
            path: names.and_then(|names| names.get(prediction.image).map(String::as_str)),
            true_class: name(prediction.label),
            predicted_class: name(prediction.predicted),
            probability: prediction.probability,
            true_class_probability: prediction.label_probability,
            true_class_rank: prediction.label_rank,
            top_k: top
                .iter()
                .map(|&(class, probability)| Candidate {
                    class: name(class),
                    probability,
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_round_trips_in_both_formats() {
        let classes = [
            "a, \"b\"".to_string(),
            "c\r\nd".to_string(),
            "\u{1b}".to_string(),
        ];
        let names = ["x,\n\"y\".png".to_string(), "\u{7}.png".to_string()];
        let mut top = TopClasses::new(2);
        top.push(&[0.25, 0.5, 0.25]);
        top.push(&[0.0, 0.0, 1.0]);
        let prediction = |image, label, predicted, probability| Prediction {
            image,
            label,
            predicted,
            probability,
            label_probability: 0.25,
            label_rank: 2,
        };
        let all = [prediction(0, 0, 1, 0.5), prediction(1, 2, 2, 1.0)];
        let all = Predictions {
            all: &all,
            top: &top,
            classes: &classes,
            names: Some(&names),
        };
        let bytes = all.encoded(Format::Csv).unwrap();
        let mut reader = csv::Reader::from_reader(bytes.as_slice());
        let header: Vec<String> = reader.headers().unwrap().iter().map(String::from).collect();
        assert_eq!(header[6..8], ["true_class_rank", "top1_class"]);
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows[0][1], names[0]);
        assert_eq!([&rows[0][2], &rows[0][3]], [&classes[0], &classes[1]]);
        // Of classes with equal probability, the first is second.
        assert_eq!(
            [&rows[0][7], &rows[0][9], &rows[0][10]],
            [&classes[1], &classes[0], "0.25"]
        );
        assert_eq!([&rows[1][1], &rows[1][2]], [&names[1], &classes[2]]);

        let json = all.encoded(Format::Json).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json[0]["path"], names[0]);
        assert_eq!(json[0]["true_class"], classes[0]);
        assert_eq!(json[0]["top_k"][0]["class"], classes[1]);
        assert_eq!(json[1]["top_k"][0]["probability"], 1.0);
        assert_eq!(json[1]["top_k"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn the_extension_is_the_format() {
        for (name, format) in [
            ("a.csv", Some(Format::Csv)),
            ("a.JSON", Some(Format::Json)),
            ("a.txt", None),
            ("csv", None),
        ] {
            assert_eq!(Format::of(Path::new(name)), format);
        }
    }
}
