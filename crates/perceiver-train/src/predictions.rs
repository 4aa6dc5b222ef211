//! What a model said of every picture of a test split: `predictions.csv`, from which confusions, calibration and comparisons
//! of runs are made without the model.
//!
//! ```text
//! image,label,predicted,probability,label_probability,label_rank
//! 0,49,49,0.91842,0.91842,1
//! 1,33,72,0.40112,0.22154,2
//! ```
//!
//! Where the data set has names for its images, a last column `path` tells them: the path in the data folder, or `SHARD:KEY`.

use std::path::Path;

use candle_core::{DType, Tensor};
use perceiver_files::MAX_TABLE_BYTES;
use perceiver_ops::softmax;
use serde::{Deserialize, Serialize};

use crate::atomic_file;
use crate::error::{Result, TrainError};

/// The first line: the fields of a [`Prediction`], and the name of the picture where there is one.
const COLUMNS: [&str; 6] = [
    "image",
    "label",
    "predicted",
    "probability",
    "label_probability",
    "label_rank",
];
const PATH: &str = "path";

/// What was said of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The picture's place in the data set, from 0.
    pub image: usize,
    /// The class that is right.
    pub label: u32,
    /// The most probable class, the first of several.
    pub predicted: u32,
    /// The probability of `predicted`.
    pub probability: f32,
    /// The probability of `label`.
    pub label_probability: f32,
    /// 1 more than the number of classes that are more probable than `label`.
    pub label_rank: u32,
}

impl Prediction {
    /// Whether the most probable class is the right one.
    pub fn is_right(&self) -> bool {
        self.predicted == self.label
    }

    /// Whether its probabilities are some: NaN is none.
    fn has_probabilities(&self) -> bool {
        let both = [self.probability, self.label_probability];
        both.iter().all(|share| (0.0..=1.001).contains(share))
    }

    /// How many numbers [`Prediction::to_numbers`] gives.
    pub(crate) const NUMBERS: usize = 5;

    /// All but the picture's place, exactly.
    pub(crate) fn to_numbers(self) -> [f64; Self::NUMBERS] {
        [
            self.label.into(),
            self.predicted.into(),
            self.probability.into(),
            self.label_probability.into(),
            self.label_rank.into(),
        ]
    }

    /// From [`Prediction::to_numbers`].
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

    /// What was said of a batch, the `first` picture onwards: `scores` `[batch, classes]`, `labels` `[batch]` (u32).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub(crate) fn of_batch(first: usize, scores: &Tensor, labels: &Tensor) -> Result<Vec<Self>> {
        let probabilities = softmax(&scores.to_dtype(DType::F32)?)?.to_vec2::<f32>()?;
        let labels = labels.to_vec1::<u32>()?;
        let pictures = (first..).zip(probabilities.iter().zip(labels));
        Ok(pictures
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

/// Writes predictions, in the order of the pictures, replacing an old file at once or not at all. `names` are those of the pictures, as
/// [`Pictures::image_names`](perceiver_data::Pictures::image_names) has them.
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

/// The text of a `predictions.csv`.
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

/// Reads what [`write_predictions`] wrote, with names or without.
///
/// # Errors
/// When it cannot be read, or a line, named by its number, is not a picture's.
pub fn read_predictions(path: &Path) -> Result<Vec<Prediction>> {
    let bytes = atomic_file::read(path, MAX_TABLE_BYTES)?;
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    let lines = reader.deserialize::<Prediction>().enumerate();
    lines
        .map(|(image, line)| match line {
            Ok(line) if line.image == image && line.has_probabilities() => Ok(line),
            Ok(line) if line.image == image => Err(format!(
                "probabilities {} and {} of picture {image}",
                line.probability, line.label_probability
            )),
            Ok(line) => Err(format!("picture {} in the place of {image}", line.image)),
            Err(error) => Err(error.to_string()),
        })
        .collect::<std::result::Result<_, String>>()
        .map_err(|finding| TrainError::Damaged {
            path: path.to_path_buf(),
            expected: "a line a test picture, as `perceiver train` writes it".to_string(),
            finding,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_has_a_rank_and_the_first_of_the_most_probable_is_predicted() {
        let said = Prediction::of(0, &[0.1, 0.4, 0.4, 0.1], 3);
        assert_eq!((said.predicted, said.label_rank), (1, 3));
        assert!(!said.is_right());
        let said = Prediction::of(0, &[0.1, 0.4, 0.4, 0.1], 2);
        assert_eq!((said.predicted, said.label_rank), (1, 1));
    }

    #[test]
    fn what_was_written_is_read_and_a_missing_line_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("predictions.csv");
        let said = [[0.25_f32, 0.75], [0.1, 0.9], [1.0 / 3.0, 2.0 / 3.0]];
        let said: Vec<Prediction> = (0..)
            .zip(&said)
            .map(|(image, probabilities)| Prediction::of(image, probabilities, 0))
            .collect();
        write_predictions(&path, &said, None).unwrap();
        assert_eq!(read_predictions(&path).unwrap(), said);

        let text = std::fs::read_to_string(&path).unwrap();
        let second = text.lines().nth(2).unwrap();
        std::fs::write(&path, text.replace(&format!("{second}\n"), "")).unwrap();
        let error = read_predictions(&path).unwrap_err().to_string();
        assert!(error.contains("picture 2 in the place of 1"), "{error}");

        for wrong in ["NaN", "inf", "-0.5", "1e30"] {
            std::fs::write(&path, text.replace("0.75", wrong)).unwrap();
            let error = read_predictions(&path).unwrap_err().to_string();
            assert!(error.contains("probabilities"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_name_stands_in_the_last_column_whatever_is_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("predictions.csv");
        let said: Vec<Prediction> = (0..2)
            .map(|image| Prediction::of(image, &[0.25, 0.75], 0))
            .collect();
        let names = ["cat/1.jpg".to_string(), "cat/a, \"b\"\n.jpg".to_string()];
        write_predictions(&path, &said, Some(&names)).unwrap();
        assert_eq!(read_predictions(&path).unwrap(), said);
        let mut reader = csv::Reader::from_path(&path).unwrap();
        let headers: Vec<&str> = reader.headers().unwrap().iter().collect();
        assert_eq!(headers[..6], COLUMNS);
        assert_eq!(headers[6], "path");
        let read = reader.records().map(|line| line.unwrap()[6].to_string());
        assert_eq!(read.collect::<Vec<_>>(), names);
    }
}
