//! safetensors files with a checksum of their content.
//!
//! The metadata of a file has, beside its other entries, `sha256`: in lowercase hexadecimal, the
//! hash of
//!
//! - the number of the other entries of the metadata, and of each, sorted by key, key and value;
//! - of each tensor, sorted by name: name, type (`F32`), number of dimensions, each dimension, and
//!   its bytes as in the file.
//!
//! Numbers are 64 bits, little-endian. Every text and the bytes of every tensor are preceded by
//! their length in bytes. The position of a tensor in the file does not matter.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use perceiver_data::hex;
use safetensors::SafeTensors;
use safetensors::tensor::View;
use sha2::{Digest, Sha256};

use crate::error::{Result, TrainError};
use crate::run::atomic_file;

/// The key of the checksum in the metadata.
const KEY: &str = "sha256";

/// Whether a file needs a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// The file must have a checksum.
    Required,
    /// The file may come from another program without a checksum; if it has one, it must be right.
    Optional,
}

/// The content of a file.
#[derive(Debug)]
pub(crate) struct Content {
    /// The metadata without the checksum.
    pub(crate) metadata: HashMap<String, String>,
    /// The tensors, on the CPU: they are verified before they go to a device.
    pub(crate) tensors: HashMap<String, Tensor>,
}

/// Writes metadata and tensors, atomically replacing an old file.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write(
    path: &Path,
    mut metadata: HashMap<String, String>,
    tensors: impl IntoIterator<Item = (String, Tensor)>,
) -> Result<()> {
    let tensors = tensors
        .into_iter()
        .map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?)))
        .collect::<Result<BTreeMap<_, _>>>()?;
    let sum = checksum(
        &metadata,
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)),
    );
    metadata.insert(KEY.to_string(), sum);
    let bytes =
        safetensors::serialize(tensors, Some(metadata)).map_err(|error| TrainError::Io {
            action: "write",
            path: path.to_path_buf(),
            source: std::io::Error::other(error.to_string()),
        })?;
    atomic_file::write(path, &bytes)
}

/// Reads the output of [`write`]; `expected` describes the file in errors.
///
/// # Errors
/// When the file is missing or not a safetensors file, or its content does not match its checksum.
pub(crate) fn read(path: &Path, expected: &str, checksum_is: Checksum) -> Result<Content> {
    let bytes = atomic_file::read(path, u64::MAX)?;
    let damaged = |expected: String, finding: String| TrainError::Damaged {
        path: path.to_path_buf(),
        expected,
        finding,
    };
    let broken = |error: safetensors::SafeTensorError| {
        damaged(
            expected.to_string(),
            format!("{error} ({} bytes)", bytes.len()),
        )
    };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
    let file = SafeTensors::deserialize(&bytes).map_err(broken)?;
    let mut metadata = header.metadata().clone().unwrap_or_default();
    match metadata.remove(KEY) {
        Some(stored) => {
            let views: BTreeMap<_, _> = file.iter().collect();
            let found = checksum(&metadata, views.iter().map(|(name, view)| (*name, view)));
            if found != stored {
                return Err(damaged(
                    format!("content with sha256 {stored} (from its metadata)"),
                    format!("sha256 {found}"),
                ));
            }
        }
        None if checksum_is == Checksum::Required => {
            return Err(damaged(
                format!("{expected}, with a sha256 in its metadata"),
                "none".to_string(),
            ));
        }
        None => {}
    }
    let tensors = file
        .iter()
        .map(|(name, view)| Ok((name.to_string(), view.load(&Device::Cpu)?)))
        .collect::<candle_core::Result<_>>()
        .map_err(|error| damaged(expected.to_string(), error.to_string()))?;
    Ok(Content { metadata, tensors })
}

/// Computes the checksum of metadata and tensors; tensors must be sorted by name.
pub(crate) fn checksum<'a, V: View + 'a>(
    metadata: &HashMap<String, String>,
    tensors: impl Iterator<Item = (&'a str, &'a V)>,
) -> String {
    fn number(hash: &mut Sha256, number: usize) {
        hash.update((number as u64).to_le_bytes());
    }
    fn field(hash: &mut Sha256, bytes: &[u8]) {
        number(hash, bytes.len());
        hash.update(bytes);
    }
    let mut hash = Sha256::new();
    number(&mut hash, metadata.len());
    for (key, value) in metadata.iter().collect::<BTreeMap<_, _>>() {
        field(&mut hash, key.as_bytes());
        field(&mut hash, value.as_bytes());
    }
    for (name, tensor) in tensors {
        field(&mut hash, name.as_bytes());
        field(&mut hash, tensor.dtype().to_string().as_bytes());
        number(&mut hash, tensor.shape().len());
        for &dimension in tensor.shape() {
            number(&mut hash, dimension);
        }
        field(&mut hash, &tensor.data());
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn small_file(path: &Path) {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let tensors = [("b", tensor(&[1.0, -2.5])), ("a", tensor(&[0.0; 3]))];
        let metadata = HashMap::from([("progress".to_string(), "{\"x\":1}\n".to_string())]);
        let named = tensors.map(|(name, tensor)| (name.to_string(), tensor));
        write(path, metadata, named).unwrap();
    }

    fn open(path: &Path) -> Result<Content> {
        read(path, "a small file", Checksum::Required)
    }

    #[test]
    fn what_was_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("small");
        small_file(&path);
        let content = open(&path).unwrap();
        assert_eq!(content.metadata["progress"], "{\"x\":1}\n");
        assert_eq!(content.tensors["b"].to_vec1::<f32>().unwrap(), [1.0, -2.5]);
        assert_eq!((content.metadata.len(), content.tensors.len()), (1, 2));
    }

    #[test]
    fn flipped_bits_and_truncation_are_detected() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("small");
        small_file(&path);
        let bytes = fs::read(&path).unwrap();
        let refused = |damaged: &[u8], what: &str| {
            fs::write(&path, damaged).unwrap();
            let error = open(&path).expect_err(what);
            assert!(matches!(error, TrainError::Damaged { .. }), "{error}");
        };
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            refused(&flipped, &format!("bit {bit} flipped"));
        }
        for length in 0..bytes.len() {
            refused(&bytes[..length], &format!("{length} bytes left"));
        }
    }

    #[test]
    fn missing_checksums_are_errors_unless_optional() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("other");
        let tensor = Tensor::new(&[1f32], &Device::Cpu).unwrap();
        fs::write(
            &path,
            safetensors::serialize([("a", tensor)], None).unwrap(),
        )
        .unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains("with a sha256 in its metadata"), "{error}");
        assert!(read(&path, "weights", Checksum::Optional).is_ok());
    }
}
