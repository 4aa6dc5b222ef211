//! Fingerprints of shard files, to detect changes without reading them.

use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};

/// The file metadata of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardFile {
    /// Its file name, without the folder.
    name: String,
    bytes: u64,
    /// The modification time in nanoseconds since 1970; zero if unknown.
    modified: u64,
}

impl ShardFile {
    pub(super) fn of(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(|source| DataError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        let modified = metadata.modified().ok();
        let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let name = path.file_name().unwrap_or_default();
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
            bytes: metadata.len(),
            modified: since.map_or(0, |since| since.as_nanos() as u64),
        })
    }
}
