//! `predictions.csv`: the prediction for every test image.
//!
//! ```text
//! image,label,predicted,probability,label_probability,label_rank
//! 0,49,49,0.91842,0.91842,1
//! 1,33,72,0.40112,0.22154,2
//! ```
//!
//! If the data set has names for its images, they are in a last column `path`: the path in the data
//! folder, or `SHARD:KEY`.

use std::path::Path;

use candle_core::Tensor;
use perceiver_files::MAX_TABLE_BYTES;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};
use crate::run::atomic_file;

/// The header: the fields of a [`Prediction`].
const COLUMNS: [&str; 6] = [
    "image",
    "label",
    "predicted",
    "probability",
    "label_probability",
    "label_rank",
];
const PATH: &str = "path";

/// The prediction for one image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The index of the image in the data set, from 0.
    pub image: usize,
    /// The true class.
    pub label: u32,
    /// The most probable class; the first if several are.
    pub predicted: u32,
    /// The probability of `predicted`.
    pub probability: f32,
    /// The probability of `label`.
    pub label_probability: f32,
    /// The rank of `label`: 1 plus the number of more probable classes.
    pub label_rank: u32,
}

impl Prediction {
    /// Returns whether the most probable class is the true one.
    pub fn is_right(&self) -> bool {
        self.predicted == self.label
    }

    /// Returns whether the probabilities are valid, and not NaN.
    fn has_probabilities(&self) -> bool {
        let both = [self.probability, self.label_probability];
        both.iter().all(|share| (0.0..=1.001).contains(share))
    }

    /// The number of values that [`Prediction::to_numbers`] returns.
    pub(crate) const NUMBERS: usize = 5;

    /// Returns all fields except the image index, exactly.
    pub(crate) fn to_numbers(self) -> [f64; Self::NUMBERS] {
        [
            self.label.into(),
            self.predicted.into(),
            self.probability.into(),
            self.label_probability.into(),
            self.label_rank.into(),
        ]
    }

    /// Restores a prediction from [`Prediction::to_numbers`].
    pub(crate) fn from_numbers(image: usize, numbers: [f64; Self::NUMBERS]) -> Self {
        let [label, predicted, probability, label_probability, label_rank] = numbers;
        Self {
            image,
            label: label as u32,
            predicted: predicted as u32,
            probability: probability as f32,
            label_probability: label_probability as f32,
            label_rank: label_rank as u32,
        }
    }

    /// Returns the predictions of a batch whose first image has index `first`: `probabilities`
    /// `[batch][classes]`, `labels` `[batch]` (u32).
    ///
    /// # Errors
    /// When the labels are no u32.
    pub(crate) fn of_batch(
        first: usize,
        probabilities: &[Vec<f32>],
        labels: &Tensor,
    ) -> Result<Vec<Self>> {
        let labels = labels.to_vec1::<u32>()?;
        let rows = (first..).zip(probabilities.iter().zip(labels));
        Ok(rows
            .map(|(image, (probabilities, label))| Self::of(image, probabilities, label))
            .collect())
    }

    fn of(image: usize, probabilities: &[f32], label: u32) -> Self {
        let mut predicted = 0;
        for (class, probability) in probabilities.iter().enumerate() {
            if *probability > probabilities[predicted] {
                predicted = class;
            }
        }
        let own = probabilities[label as usize];
        let more_probable = probabilities.iter().filter(|&&other| other > own).count();
        Self {
            image,
            label,
            predicted: predicted as u32,
            probability: probabilities[predicted],
            label_probability: own,
            label_rank: more_probable as u32 + 1,
        }
    }
}

/// Writes predictions in the order of the images, atomically replacing an old file. `names` are the
/// image names of [`Samples::image_names`](perceiver_data::Samples::image_names).
///
/// # Errors
/// When the file cannot be written.
pub fn write_predictions(
    path: &Path,
    predictions: &[Prediction],
    names: Option<&[String]>,
) -> Result<()> {
    let bytes = predictions_csv(predictions, names).map_err(|error| TrainError::Io {
        action: "write",
        path: path.to_path_buf(),
        source: std::io::Error::other(error),
    })?;
    atomic_file::write(path, &bytes)
}

/// Formats predictions as CSV.
fn predictions_csv(
    predictions: &[Prediction],
    names: Option<&[String]>,
) -> std::io::Result<Vec<u8>> {
    let mut writer = csv::WriterBuilder::new()
        .has_headers(false)
        .from_writer(Vec::new());
    if !predictions.is_empty() {
        writer.write_record(COLUMNS.iter().chain(names.map(|_| &PATH)))?;
    }
    for prediction in predictions {
        match names {
            None => writer.serialize(prediction)?,
            Some(names) => writer.serialize((prediction, names.get(prediction.image)))?,
        }
    }
    let bytes = writer.into_inner();
    bytes.map_err(|error| std::io::Error::other(error.to_string()))
}

/// Reads the output of [`write_predictions`], with names or without.
///
/// # Errors
/// When the file cannot be read, or a line (the error gives its number) is not a prediction.
pub fn read_predictions(path: impl AsRef<Path>) -> Result<Vec<Prediction>> {
    let path = path.as_ref();
    let bytes = atomic_file::read(path, MAX_TABLE_BYTES)?;
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    let lines = reader.deserialize::<Prediction>().enumerate();
    lines
        .map(|(image, line)| match line {
            Ok(line) if line.image == image && line.has_probabilities() => Ok(line),
            Ok(line) if line.image == image => Err(format!(
                "probabilities {} and {} of image {image}",
                line.probability, line.label_probability
            )),
            Ok(line) => Err(format!("image {} instead of {image}", line.image)),
            Err(error) => Err(error.to_string()),
        })
        .collect::<std::result::Result<_, String>>()
        .map_err(|finding| TrainError::Damaged {
            path: path.to_path_buf(),
            expected: "one line per test image, as `perceiver train` writes it".to_string(),
            finding,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_ranks_and_ties_go_to_the_first_class() {
        let prediction = Prediction::of(0, &[0.1, 0.4, 0.4, 0.1], 3);
        assert_eq!((prediction.predicted, prediction.label_rank), (1, 3));
        assert!(!prediction.is_right());
        let prediction = Prediction::of(0, &[0.1, 0.4, 0.4, 0.1], 2);
        assert_eq!((prediction.predicted, prediction.label_rank), (1, 1));
    }

    #[test]
    fn predictions_round_trip_and_missing_rows_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("predictions.csv");
        let probabilities = [[0.25_f32, 0.75], [0.1, 0.9], [1.0 / 3.0, 2.0 / 3.0]];
        let predictions: Vec<Prediction> = (0..)
            .zip(&probabilities)
            .map(|(image, probabilities)| Prediction::of(image, probabilities, 0))
            .collect();
        write_predictions(&path, &predictions, None).unwrap();
        assert_eq!(read_predictions(&path).unwrap(), predictions);

        let text = std::fs::read_to_string(&path).unwrap();
        let second = text.lines().nth(2).unwrap();
        std::fs::write(&path, text.replace(&format!("{second}\n"), "")).unwrap();
        let error = read_predictions(&path).unwrap_err().to_string();
        assert!(error.contains("image 2 instead of 1"), "{error}");

        for wrong in ["NaN", "inf", "-0.5", "1e30"] {
            std::fs::write(&path, text.replace("0.75", wrong)).unwrap();
            let error = read_predictions(&path).unwrap_err().to_string();
            assert!(error.contains("probabilities"), "{wrong}: {error}");
        }
    }

    #[test]
    fn any_file_name_round_trips_in_the_last_column() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("predictions.csv");
        let predictions: Vec<Prediction> = (0..2)
            .map(|image| Prediction::of(image, &[0.25, 0.75], 0))
            .collect();
        let names = ["cat/1.jpg".to_string(), "cat/a, \"b\"\n.jpg".to_string()];
        write_predictions(&path, &predictions, Some(&names)).unwrap();
        assert_eq!(read_predictions(&path).unwrap(), predictions);
        let mut reader = csv::Reader::from_path(&path).unwrap();
        let headers: Vec<&str> = reader.headers().unwrap().iter().collect();
        assert_eq!(headers[..6], COLUMNS);
        assert_eq!(headers[6], "path");
        let read = reader.records().map(|line| line.unwrap()[6].to_string());
        assert_eq!(read.collect::<Vec<_>>(), names);
    }
}
