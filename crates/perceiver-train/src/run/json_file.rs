//! JSON files: read with errors that say what was expected, written atomically.

use std::path::Path;

use perceiver_files::MAX_TEXT_BYTES;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Result, TrainError};
use crate::run::atomic_file;

/// Returns whether a field has its default, and need not be written.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Reads the value in the file at `path`; `expected` describes the file in errors.
///
/// # Errors
/// When it is missing, or not JSON of this type.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, expected: &str) -> Result<T> {
    let text = atomic_file::read_text(path, MAX_TEXT_BYTES, expected)?;
    serde_json::from_str(&text).map_err(|error| TrainError::Damaged {
        path: path.to_path_buf(),
        expected: expected.to_string(),
        finding: error.to_string(),
    })
}

/// Writes `value` as indented JSON, with a newline at the end.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut json = serde_json::to_vec_pretty(value).map_err(|error| TrainError::Io {
        action: "write",
        path: path.to_path_buf(),
        source: error.into(),
    })?;
    json.push(b'\n');
    atomic_file::write(path, &json)
}
