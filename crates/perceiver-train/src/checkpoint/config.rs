//! `config.json`: architecture, preprocessing and class names of a checkpoint.
//!
//! The file uses the names of the Hub and of other programs where there are some: `model_type`,
//! `architectures`, `id2label` and `label2id`. `label2id` is for other programs only; this one
//! reads `id2label`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use perceiver_data::{Labels, Preprocessing, Source};
use perceiver_files::MAX_TEXT_BYTES;
use perceiver_model::{
    Architecture, MODEL_TYPE, ModelConfig, ModelError, PerceiverIoConfig, foreign_config,
    is_perceiver_io_config,
};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::checkpoint::preprocessor_config::PreprocessorConfig;
use crate::checkpoint::transformers::{self, Training};
use crate::error::{Result, TrainError};
use crate::run::atomic_file;
use crate::run::json_file;

/// The name of the network in `architectures`.
const ARCHITECTURE: &str = "Perceiver";

/// The format version of `config.json` and `model.safetensors`. In this one, classes are named as
/// on the Hub.
const FORMAT: u32 = 3;

/// The previous format, with the classes as a list: the first one whose weights have a checksum.
const FORMAT_WITH_CLASSES: u32 = 2;

/// The format whose weights have no checksum, which other programs write.
const FORMAT_WITHOUT_CHECKSUM: u32 = 1;

/// The description of a `config.json` in errors.
const EXPECTED: &str = "the config.json of a Perceiver checkpoint";

/// The content of `config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Layout")]
pub struct CheckpointConfig {
    format: u32,
    /// The version of the program that wrote the file; empty if unknown.
    pub perceiver_version: String,
    /// The architecture.
    pub model: ModelConfig,
    /// The preprocessing of images.
    pub preprocessing: Preprocessing,
    /// The class name of each logit.
    pub classes: Vec<String>,
    /// The training data.
    pub data: DataCard,
}

/// A description of the data that a model was trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataCard {
    /// The data set, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<Source>,
    /// The label set (classes or coarse groups).
    pub labels: Labels,
    /// The number of training images, validation included; 0 if unknown.
    pub train_images: usize,
    /// The hash of the training images and labels, by [`perceiver_data::Dataset::sha256`]; empty if
    /// unknown.
    pub train_sha256: String,
    /// The seed of the run.
    #[serde(default)]
    pub seed: u64,
    /// The seed that draws the test split of a folder without splits. None in files of earlier
    /// versions, which used the seed of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_seed: Option<u64>,
    /// The number of test images of the initial checkpoint that the run trained or validated on: if
    /// there are any, neither test result is of unseen images. None if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_overlap: Option<u64>,
    /// The number of test images to evaluate, the first ones; none for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_test: Option<usize>,
    /// Whether test results use test-time flip.
    #[serde(default)]
    pub flip_average: bool,
}

impl DataCard {
    /// Returns the card of a model whose training data is unknown.
    pub fn unknown() -> Self {
        Self {
            dataset: None,
            labels: Labels::Fine,
            train_images: 0,
            train_sha256: String::new(),
            seed: 0,
            split_seed: None,
            init_overlap: None,
            limit_test: None,
            flip_average: false,
        }
    }

    /// Returns the seed that splits the data set.
    pub fn split_seed(&self) -> u64 {
        self.split_seed.unwrap_or(self.seed)
    }
}

impl CheckpointConfig {
    /// Creates the configuration of a new checkpoint.
    pub fn new(
        model: impl Into<ModelConfig>,
        preprocessing: Preprocessing,
        classes: Vec<String>,
        data: DataCard,
    ) -> Self {
        Self {
            format: FORMAT,
            perceiver_version: env!("CARGO_PKG_VERSION").to_string(),
            model: model.into(),
            preprocessing,
            classes,
            data,
        }
    }

    /// Creates the configuration of a checkpoint that transformers wrote.
    pub(crate) fn of_transformers(
        model: PerceiverIoConfig,
        preprocessing: Preprocessing,
        classes: Vec<String>,
    ) -> Self {
        Self {
            format: FORMAT_WITHOUT_CHECKSUM,
            perceiver_version: String::new(),
            ..Self::new(model, preprocessing, classes, DataCard::unknown())
        }
    }

    /// Creates the configuration of a Perceiver IO that a run has trained.
    pub(crate) fn of_training(
        model: PerceiverIoConfig,
        training: Training,
        classes: Vec<String>,
    ) -> Self {
        Self {
            format: training.format,
            perceiver_version: training.perceiver_version,
            ..Self::new(model, training.preprocessing, classes, training.data)
        }
    }

    /// Returns the shorter side, in pixels, that images of folders are downscaled to when they are
    /// loaded: twice the model's image size. The steps of transformers start from whole images.
    pub fn shorter_side(&self) -> usize {
        match self.preprocessing.transformers {
            Some(_) => usize::MAX,
            None => 2 * self.model.image_size(),
        }
    }

    /// Reads and validates a `config.json`.
    ///
    /// # Errors
    /// When it is missing, not ours, or inconsistent.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let config = Self::parse(path).map_err(|error| told_by_its_content(error, path))?;
        let damaged = |finding: String| TrainError::Damaged {
            path: path.to_path_buf(),
            expected: EXPECTED.to_string(),
            finding,
        };
        config.preprocessing.validate()?;
        match config.model.validate() {
            Ok(()) => {}
            // Only the program that has its code knows more; see `Checkpoint::open_with`.
            Err(ModelError::UnknownModel { .. }) => return Ok(config),
            Err(error) => return Err(error.into()),
        }
        if config.classes.len() != config.model.num_classes() {
            return Err(damaged(format!(
                "{} class names for {} logits",
                config.classes.len(),
                config.model.num_classes()
            )));
        }
        if config.preprocessing.image_size != config.model.image_size() {
            return Err(damaged(format!(
                "preprocessing.image_size = {}, but model.image_size = {}",
                config.preprocessing.image_size,
                config.model.image_size()
            )));
        }
        Ok(config)
    }

    /// Parses a `config.json` of this program or of transformers.
    fn parse(path: &Path) -> Result<Self> {
        let own = json_file::read(path, EXPECTED);
        if let Err(TrainError::Damaged { .. }) = &own
            && let Ok(value) = json_file::read::<Value>(path, EXPECTED)
            && is_perceiver_io_config(&value)
        {
            return transformers::read(path, value);
        }
        own
    }

    /// Returns whether weights without a checksum are accepted with this configuration.
    pub(crate) fn is_of_another_program(&self) -> bool {
        self.format == FORMAT_WITHOUT_CHECKSUM
    }

    /// Writes a `config.json`, atomically replacing an old one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        if self.model.perceiver_io().is_some() {
            let preprocessor = path.with_file_name(transformers::PREPROCESSOR);
            json_file::write(&preprocessor, &PreprocessorConfig::new(self))?;
        }
        json_file::write(path, self)
    }
}

impl Serialize for CheckpointConfig {
    /// Serializes a Perceiver IO in the form of transformers, and every other model in our own.
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Some(model) = self.model.perceiver_io() else {
            return Layout::from(self.clone()).serialize(serializer);
        };
        let training = Training {
            format: self.format,
            perceiver_version: self.perceiver_version.clone(),
            image_size: model.image_size,
            preprocessing: self.preprocessing.clone(),
            data: self.data.clone(),
        };
        transformers::Layout::new(model, &self.classes, training).serialize(serializer)
    }
}

/// Returns a better error for the file at `path` if another program wrote it: that says more than
/// the first missing field.
fn told_by_its_content(error: TrainError, path: &Path) -> TrainError {
    let foreign = || foreign_config(&atomic_file::read(path, MAX_TEXT_BYTES).ok()?);
    match error {
        TrainError::Damaged {
            path,
            expected,
            finding,
        } => TrainError::Damaged {
            path,
            expected,
            finding: foreign().unwrap_or(finding),
        },
        other => other,
    }
}

/// The file as stored, in any format.
#[derive(Serialize, Deserialize)]
struct Layout {
    model_type: String,
    #[serde(default)]
    architectures: Vec<String>,
    format: u32,
    #[serde(default)]
    perceiver_version: String,
    model: ModelConfig,
    preprocessing: Preprocessing,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    classes: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id2label: Option<BTreeMap<usize, String>>,
    #[serde(default, skip_deserializing)]
    label2id: LabelNumbers,
    data: DataCard,
}

/// Class names, serialized as a map to their indices.
#[derive(Default)]
pub(crate) struct LabelNumbers(pub(crate) Vec<String>);

impl Serialize for LabelNumbers {
    /// Serializes in the order of the indices; of classes with the same name, the first.
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let mut seen = BTreeSet::new();
        for (id, label) in self.0.iter().enumerate() {
            if seen.insert(label) {
                map.serialize_entry(label, &id)?;
            }
        }
        map.end()
    }
}

impl From<CheckpointConfig> for Layout {
    fn from(config: CheckpointConfig) -> Self {
        let id2label = config.classes.iter().cloned().enumerate().collect();
        Self {
            model_type: MODEL_TYPE.to_string(),
            architectures: vec![ARCHITECTURE.to_string()],
            format: config.format,
            perceiver_version: config.perceiver_version,
            model: config.model,
            preprocessing: config.preprocessing,
            classes: None,
            id2label: Some(id2label),
            label2id: LabelNumbers(config.classes),
            data: config.data,
        }
    }
}

impl TryFrom<Layout> for CheckpointConfig {
    type Error = String;

    fn try_from(layout: Layout) -> std::result::Result<Self, String> {
        let known = [FORMAT_WITHOUT_CHECKSUM, FORMAT_WITH_CLASSES, FORMAT];
        if layout.model_type != MODEL_TYPE || !known.contains(&layout.format) {
            return Err(format!(
                "model_type {:?} in format {}, but this program reads {MODEL_TYPE:?} in formats 1 to {FORMAT}",
                layout.model_type, layout.format
            ));
        }
        let classes = match (layout.id2label, layout.classes) {
            (Some(names), _) => listed(names)?,
            (None, Some(classes)) => classes,
            (None, None) => return Err("no id2label".to_string()),
        };
        Ok(Self {
            format: layout.format,
            perceiver_version: layout.perceiver_version,
            model: layout.model,
            preprocessing: layout.preprocessing,
            classes,
            data: layout.data,
        })
    }
}

/// Converts a map from index to name into a list. The indices must be 0, 1, 2 and so on.
fn listed(names: BTreeMap<usize, String>) -> std::result::Result<Vec<String>, String> {
    let numbers = names.keys().copied();
    match numbers
        .zip(0..)
        .find(|(number, expected)| number != expected)
    {
        Some((found, expected)) => Err(format!("id2label with key {found} instead of {expected}")),
        None => Ok(names.into_values().collect()),
    }
}

#[cfg(test)]
mod tests {
    use perceiver_model::PerceiverConfig;

    use super::*;

    fn config(classes: &[&str]) -> CheckpointConfig {
        let last = classes.len();
        let model = PerceiverConfig {
            classifier_units: vec![8, last],
            ..PerceiverConfig::default()
        };
        let preprocessing = Preprocessing {
            image_size: model.image_size,
            antialias: false,
            fit: perceiver_data::Fit::Stretch,
            normalization: perceiver_data::Normalization {
                mean: vec![1.0; 3],
                variance: vec![2.0; 3],
            },
            transformers: None,
        };
        let card = DataCard {
            dataset: Some(Source::Shapes),
            labels: Labels::Fine,
            train_images: 7,
            train_sha256: String::new(),
            seed: 0,
            split_seed: Some(0),
            init_overlap: None,
            limit_test: None,
            flip_average: false,
        };
        let classes = classes.iter().map(ToString::to_string).collect();
        CheckpointConfig::new(model, preprocessing, classes, card)
    }

    #[test]
    fn id2label_round_trips_in_class_order() {
        let names: Vec<String> = (0..12).map(|at| format!("class {at}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let written = serde_json::to_value(config(&names)).unwrap();
        assert_eq!(written["id2label"]["11"], "class 11");
        assert_eq!(written["label2id"]["class 11"], 11);
        assert_eq!(written["architectures"][0], "Perceiver");
        assert_eq!(written["perceiver_version"], env!("CARGO_PKG_VERSION"));
        assert!(written.get("classes").is_none());
        let read: CheckpointConfig = serde_json::from_value(written).unwrap();
        assert_eq!(read, config(&names));
    }

    #[test]
    fn earlier_formats_are_read() {
        let mut written = serde_json::to_value(config(&["ant", "bee"])).unwrap();
        let object = written.as_object_mut().unwrap();
        for name in ["id2label", "label2id", "architectures", "perceiver_version"] {
            object.remove(name);
        }
        object.insert("classes".into(), serde_json::json!(["ant", "bee"]));
        for format in [1, 2] {
            written["format"] = format.into();
            let read: CheckpointConfig = serde_json::from_value(written.clone()).unwrap();
            assert_eq!(read.classes, ["ant", "bee"]);
            assert_eq!(read.is_of_another_program(), format == 1);
        }
    }

    #[test]
    fn gaps_in_id2label_are_rejected() {
        let mut written = serde_json::to_value(config(&["ant", "bee"])).unwrap();
        written["id2label"] = serde_json::json!({"0": "ant", "2": "bee"});
        let error = serde_json::from_value::<CheckpointConfig>(written).unwrap_err();
        assert!(error.to_string().contains("key 2 instead of 1"), "{error}");
    }
}
