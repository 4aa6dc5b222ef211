//! Safetensors files with valid checksums, so that the code after the check is reached.

use std::collections::HashMap;

use safetensors::SafeTensors;
use safetensors::tensor::View;
use sha2::{Digest, Sha256};

/// Returns the file with a valid checksum in its metadata, as `checksummed_file.rs` of
/// `perceiver-train` defines it; `None` if it is not a safetensors file.
pub(crate) fn sealed(file: &[u8]) -> Option<Vec<u8>> {
    let (_, header) = SafeTensors::read_metadata(file).ok()?;
    let tensors = SafeTensors::deserialize(file).ok()?;
    let mut metadata = header.metadata().clone().unwrap_or_default();
    metadata.remove("sha256");
    let sum = checksum(&metadata, &tensors);
    metadata.insert("sha256".to_string(), sum);
    safetensors::serialize(tensors.iter(), Some(metadata)).ok()
}

fn checksum(metadata: &HashMap<String, String>, tensors: &SafeTensors<'_>) -> String {
    fn number(hash: &mut Sha256, number: usize) {
        hash.update((number as u64).to_le_bytes());
    }
    fn field(hash: &mut Sha256, bytes: &[u8]) {
        number(hash, bytes.len());
        hash.update(bytes);
    }
    let mut hash = Sha256::new();
    number(&mut hash, metadata.len());
    let mut pairs: Vec<_> = metadata.iter().collect();
    pairs.sort();
    for (key, value) in pairs {
        field(&mut hash, key.as_bytes());
        field(&mut hash, value.as_bytes());
    }
    let mut tensors: Vec<_> = tensors.iter().collect();
    tensors.sort_by_key(|(name, _)| *name);
    for (name, tensor) in tensors {
        field(&mut hash, name.as_bytes());
        field(&mut hash, tensor.dtype().to_string().as_bytes());
        number(&mut hash, tensor.shape().len());
        for &dimension in tensor.shape() {
            number(&mut hash, dimension);
        }
        field(&mut hash, &View::data(&tensor));
    }
    perceiver_data::hex(&hash.finalize())
}
