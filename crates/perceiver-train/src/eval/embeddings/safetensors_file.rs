//! safetensors files of embeddings: the tensor `embeddings`, with names and checkpoint in the
//! metadata.
//!
//! The header is written here and the values are copied after it, because the library's own writer
//! needs all values in memory.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use crate::error::{Result, TrainError};
use crate::eval::embeddings::header::{EmbeddedImage, KEY, Stored, damaged};
use crate::eval::embeddings::values_of;
use crate::run::atomic_file;

/// The name of the tensor.
const TENSOR: &str = "embeddings";

/// The key of the names in the metadata.
const FILES: &str = "files";

/// The longest header that the safetensors library reads.
const MAX_HEADER_BYTES: usize = 100_000_000;

/// Writes the file, whose values are those in `values`.
///
/// # Errors
/// When the file cannot be written, or the names are too long for a header.
pub(crate) fn write(
    path: &Path,
    stored: &Stored,
    files: &[EmbeddedImage],
    values: &mut File,
) -> Result<()> {
    let bytes = stored.array_shape().iter().product::<usize>() * size_of::<f32>();
    let failed = |source| TrainError::Io {
        action: "write",
        path: path.to_path_buf(),
        source,
    };
    let text = |value: serde_json::Result<String>| value.map_err(|error| failed(error.into()));
    let mut header = json!({
        "__metadata__": {
            KEY: text(serde_json::to_string(stored))?,
            FILES: text(serde_json::to_string(files))?,
        },
        TENSOR: { "dtype": "F32", "shape": stored.array_shape(), "data_offsets": [0, bytes] },
    })
    .to_string();
    header.extend(std::iter::repeat_n(
        ' ',
        header.len().next_multiple_of(8) - header.len(),
    ));
    if header.len() > MAX_HEADER_BYTES {
        return Err(failed(io::Error::other(format!(
            "the names of {} images are more than the {MAX_HEADER_BYTES} bytes of a safetensors header; use .npy or \
             .parquet",
            files.len()
        ))));
    }
    atomic_file::write_with(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        io::copy(values, file).map(drop)
    })
}

/// Reads the file at `path`.
///
/// # Errors
/// When it is missing, no safetensors file, or without embeddings.
pub(crate) fn read(path: &Path) -> Result<(Stored, Vec<EmbeddedImage>, Vec<f32>)> {
    let bytes = atomic_file::read(path, u64::MAX)?;
    let broken = |error: safetensors::SafeTensorError| damaged(path, error.to_string());
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let stored = Stored::parse(metadata.get(KEY).map(String::as_str), path)?;
    let files = metadata.get(FILES).map_or("", String::as_str);
    let files = serde_json::from_str(files)
        .map_err(|error| damaged(path, format!("{FILES} in its metadata: {error}")))?;
    let file = SafeTensors::deserialize(&bytes).map_err(broken)?;
    let tensor = file.tensor(TENSOR).map_err(broken)?;
    let shape = stored.array_shape();
    if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
        return Err(damaged(
            path,
            format!(
                "{TENSOR} of type {} and shape {:?}, not F32 and {shape:?}",
                tensor.dtype(),
                tensor.shape()
            ),
        ));
    }
    Ok((stored, files, values_of(tensor.data())))
}
