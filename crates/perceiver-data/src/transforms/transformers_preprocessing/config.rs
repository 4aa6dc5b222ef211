//! Reads a `preprocessor_config.json` of Perceiver IO key by key, so that errors name the key.

use std::path::Path;

use perceiver_files::read_text;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::dataset::image::CHANNELS;
use crate::error::{DataError, Result};
use crate::transforms::center_crop::CropOffset;
use crate::transforms::pillow_resize::filter::PillowFilter;
use crate::transforms::transformers_preprocessing::{Sides, TransformersPreprocessing};

/// The characters of a wrong value that a message shows.
const MAX_SHOWN: usize = 80;

/// The first word of the image processor's classes: `PerceiverFeatureExtractor`,
/// `PerceiverImageProcessor` and their variants.
const CLASS: &str = "Perceiver";

/// The content of the file.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Keys(Map<String, Value>);

impl TransformersPreprocessing {
    /// Reads the file at `path`, the `preprocessor_config.json` beside the `config.json` of a
    /// checkpoint of transformers.
    ///
    /// # Errors
    /// [`DataError::Io`] when it cannot be read, and [`DataError::InvalidFile`] with the error of
    /// [`TransformersPreprocessing::from_json`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = read_text(path).map_err(|source| DataError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        Self::from_json(text.as_bytes()).map_err(|source| DataError::InvalidFile {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    /// Reads the content of a `preprocessor_config.json`.
    ///
    /// # Errors
    /// When it is no JSON object, is of another model's image processor, whose steps differ, or has
    /// an invalid value.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let keys = serde_json::from_slice::<Keys>(json);
        let keys = keys.map_err(|error| DataError::InvalidOption {
            option: "preprocessor_config.json",
            expected: "a JSON object".to_owned(),
            found: error.to_string(),
        })?;
        Self::try_from(keys)
    }
}

impl TryFrom<Keys> for TransformersPreprocessing {
    type Error = DataError;

    fn try_from(keys: Keys) -> Result<Self> {
        for key in ["image_processor_type", "feature_extractor_type"] {
            let class = |value: &Value| value.as_str()?.starts_with(CLASS).then_some(());
            keys.read(key, "PerceiverImageProcessor", (), class)?;
        }
        let flag = |key, default| keys.read(key, "true or false", default, Value::as_bool);
        let sides = |key, default| {
            let expected = r#"a number of pixels, or {"height": .., "width": ..}"#;
            keys.read(key, expected, default, to_sides)
        };
        let channels = |key, default| {
            let expected = format!("{CHANNELS} numbers, or one for all channels");
            keys.read(key, &expected, default, to_channels)
        };
        let default = Self::default();
        let preprocessing = Self {
            do_center_crop: flag("do_center_crop", default.do_center_crop)?,
            crop_size: sides("crop_size", default.crop_size)?,
            crop_offset: keys.read(
                "crop_offset",
                "\"floor\" or \"ceil\"",
                default.crop_offset,
                |value| CropOffset::deserialize(value).ok(),
            )?,
            do_resize: flag("do_resize", default.do_resize)?,
            size: sides("size", default.size)?,
            resample: keys.read("resample", &filters(), default.resample, |value| {
                PillowFilter::from_number(value.as_u64()?)
            })?,
            do_rescale: flag("do_rescale", default.do_rescale)?,
            rescale_factor: keys.read(
                "rescale_factor",
                "a number",
                default.rescale_factor,
                Value::as_f64,
            )?,
            do_normalize: flag("do_normalize", default.do_normalize)?,
            image_mean: channels("image_mean", default.image_mean)?,
            image_std: channels("image_std", default.image_std)?,
        };
        preprocessing.validate()?;
        Ok(preprocessing)
    }
}

impl Keys {
    /// Returns the value of a key, or the default if it is missing or `null`.
    fn read<T>(
        &self,
        key: &'static str,
        expected: &str,
        default: T,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => read(value).ok_or_else(|| DataError::InvalidOption {
                option: key,
                expected: expected.to_owned(),
                found: shown(value),
            }),
        }
    }
}

/// Reads both forms of a size: 224, and `{"height": 224, "width": 224}`.
fn to_sides(value: &Value) -> Option<Sides> {
    let pixels = |value: &Value| usize::try_from(value.as_u64()?).ok();
    if let Value::Object(sides) = value {
        return Some(Sides {
            height: pixels(sides.get("height")?)?,
            width: pixels(sides.get("width")?)?,
        });
    }
    pixels(value).map(Sides::square)
}

/// Reads a number for each channel, or one for all.
fn to_channels(value: &Value) -> Option<[f64; CHANNELS]> {
    let Value::Array(values) = value else {
        return Some([value.as_f64()?; CHANNELS]);
    };
    let numbers: Option<Vec<f64>> = values.iter().map(Value::as_f64).collect();
    numbers?.try_into().ok()
}

/// Lists the filters with their numbers.
fn filters() -> String {
    let filters = PillowFilter::ALL.map(|filter| format!("{} ({filter:?})", filter.number()));
    format!("one of {}", filters.join(", ").to_lowercase())
}

/// Returns a value as JSON, shortened.
fn shown(value: &Value) -> String {
    let json = value.to_string();
    match json.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}...", &json[..end]),
        None => json,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<TransformersPreprocessing> {
        TransformersPreprocessing::from_json(json.as_bytes())
    }

    #[test]
    fn the_files_of_the_hub_are_the_default() {
        let new = r#"{"do_center_crop": true, "crop_size": {"height": 256, "width": 256},
            "do_resize": true, "size": {"height": 224, "width": 224}, "resample": 3,
            "do_normalize": true, "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225], "do_convert_rgb": null,
            "image_processor_type": "PerceiverImageProcessor"}"#;
        let old = r#"{"crop_size": 256, "size": 224, "resample": null,
            "feature_extractor_type": "PerceiverFeatureExtractor", "of_another_release": {}}"#;
        for json in [new, old, "{}"] {
            assert_eq!(read(json).unwrap(), TransformersPreprocessing::default());
        }
    }

    #[test]
    fn every_key_is_read_and_written() {
        let json = r#"{"do_center_crop":false,"crop_size":{"height":9,"width":8},
            "crop_offset":"ceil","do_resize":false,"size":{"height":7,"width":6},"resample":1,
            "do_rescale":false,"rescale_factor":0.5,"do_normalize":false,
            "image_mean":[0.25,0.5,1.0],"image_std":[2.0,4.0,8.0]}"#;
        let read = read(json).unwrap();
        let written = serde_json::to_string(&read).unwrap();
        assert_eq!(written, json.replace(['\n', ' '], ""));
        let again: TransformersPreprocessing = serde_json::from_str(&written).unwrap();
        assert_eq!(again, read);
        let default = serde_json::to_value(TransformersPreprocessing::default()).unwrap();
        assert!(default.get("crop_offset").is_none());
    }

    #[test]
    fn invalid_values_are_named() {
        for (json, message) in [
            (
                "[]",
                "preprocessor_config.json: expected a JSON object, found invalid type",
            ),
            (
                r#"{"do_resize": 1}"#,
                "do_resize: expected true or false, found 1",
            ),
            (
                r#"{"size": "224"}"#,
                "size: expected a number of pixels, or {\"height\": .., ",
            ),
            (
                r#"{"size": {"shortest_edge": 224}}"#,
                "found {\"shortest_edge\":224}",
            ),
            (
                r#"{"size": 0}"#,
                "size: expected height and width of 1 to 4096 pixels, found height 0",
            ),
            (
                r#"{"crop_size": 5000}"#,
                "crop_size: expected height and width of 1 to 4096",
            ),
            (
                r#"{"crop_size": 223}"#,
                "crop_size: expected at least the size, height 224 and",
            ),
            (r#"{"crop_size": -1}"#, "found -1"),
            (
                r#"{"resample": 6}"#,
                "resample: expected one of 0 (nearest), 1 (lanczos), 2 (bilinear), 3 (bicubic), \
                 4 (box), 5 (hamming), found 6",
            ),
            (r#"{"resample": "bicubic"}"#, "found \"bicubic\""),
            (
                r#"{"rescale_factor": 0}"#,
                "rescale_factor: expected a positive number, found 0",
            ),
            (
                r#"{"image_mean": [0.5]}"#,
                "image_mean: expected 3 numbers, or one for all channels",
            ),
            (
                r#"{"image_mean": 1e300}"#,
                "image_mean: expected 3 finite numbers, found [1e300",
            ),
            (
                r#"{"image_std": [1, 0, 1]}"#,
                "image_std: expected 3 positive numbers, found [1.0, 0.0",
            ),
            (
                r#"{"crop_offset": "up"}"#,
                "crop_offset: expected \"floor\" or \"ceil\", found \"up\"",
            ),
            (
                r#"{"image_processor_type": "CLIPImageProcessor"}"#,
                "image_processor_type: expected PerceiverImageProcessor, found \"CLIPImageProcessor\"",
            ),
        ] {
            let error = read(json).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
            let error = serde_json::from_str::<TransformersPreprocessing>(json).unwrap_err();
            assert!(
                json == "[]" || error.to_string().contains(message),
                "{error}"
            );
        }
    }

    #[test]
    fn files_are_read_and_named_in_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("preprocessor_config.json");
        let missing = TransformersPreprocessing::open(&path).unwrap_err();
        let expected = format!("cannot read {}: ", path.display());
        assert!(missing.to_string().starts_with(&expected), "{missing}");

        std::fs::write(&path, r#"{"size": 64, "crop_size": 80}"#).unwrap();
        let read = TransformersPreprocessing::open(&path).unwrap();
        assert_eq!(
            (read.size, read.crop_size),
            (Sides::square(64), Sides::square(80))
        );

        std::fs::write(&path, r#"{"size": 0}"#).unwrap();
        let invalid = TransformersPreprocessing::open(&path).unwrap_err();
        let expected = format!("{}: size: expected height and width of 1", path.display());
        assert!(invalid.to_string().starts_with(&expected), "{invalid}");
    }

    #[test]
    fn long_values_are_shortened() {
        let json = format!(r#"{{"image_std": "{}"}}"#, "é".repeat(10_000));
        let message = read(&json).unwrap_err().to_string();
        assert!(message.len() < 300 && message.ends_with("..."), "{message}");
    }
}
