//! Metadata of an exported file: class names, checksum of the weights, licence, preprocessing.

use perceiver_data::Preprocessing;
use perceiver_model::ModelConfig;

use crate::error::Result;
use crate::onnx::proto::StringStringEntryProto;

/// What users of a file want to know about it, stored as its `metadata_props`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OnnxMetadata {
    /// The class name of each result.
    pub classes: Vec<String>,
    /// The SHA-256 of the weights that were exported, in hexadecimal; empty if unknown.
    pub weights_sha256: String,
    /// The licence of the weights, by its identifier on the Hugging Face Hub; none if unknown.
    pub license: Option<String>,
    /// The preprocessing from images to the model's input, for those who have to do it themselves.
    pub preprocessing: Option<Preprocessing>,
}

impl OnnxMetadata {
    /// Returns the entries of a file: texts, and JSON for lists and objects.
    pub(crate) fn entries(&self, model: &ModelConfig) -> Result<Vec<StringStringEntryProto>> {
        let mut entries = vec![
            ("model", serde_json::to_string(model)?),
            ("classes", serde_json::to_string(&self.classes)?),
        ];
        if let Some(preprocessing) = &self.preprocessing {
            entries.push(("preprocessing", serde_json::to_string(preprocessing)?));
        }
        if !self.weights_sha256.is_empty() {
            entries.push(("weights_sha256", self.weights_sha256.clone()));
        }
        if let Some(license) = &self.license {
            entries.push(("license", license.clone()));
        }
        let entries = entries.into_iter();
        Ok(entries
            .map(|(key, value)| StringStringEntryProto::new(key, value))
            .collect())
    }
}
