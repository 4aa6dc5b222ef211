//! Safetensors files taken apart and put together again, with or without a valid checksum.

use std::collections::BTreeMap;

use perceiver_tests::digest::hex;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// The parts of a safetensors file: its metadata, and each tensor with type, shape and bytes.
pub(crate) struct Parts {
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) tensors: BTreeMap<String, (String, Vec<u64>, Vec<u8>)>,
}

/// Returns the JSON header, and the offset of the tensor data.
pub(crate) fn header(file: &[u8]) -> (Map<String, Value>, usize) {
    let (length, rest) = file.split_first_chunk().unwrap();
    let length = u64::from_le_bytes(*length) as usize;
    (serde_json::from_slice(&rest[..length]).unwrap(), 8 + length)
}

/// Returns the byte range of a tensor in the file.
pub(crate) fn byte_range(file: &[u8], name: &str) -> (usize, usize) {
    let (header, begin) = header(file);
    let offset = |end: usize| header[name]["data_offsets"][end].as_u64().unwrap() as usize;
    (begin + offset(0), begin + offset(1))
}

impl Parts {
    pub(crate) fn of(file: &[u8]) -> Self {
        let (mut header, _) = header(file);
        let metadata = header.remove("__metadata__").unwrap();
        let tensors = header.into_iter().map(|(name, entry)| {
            let (from, to) = byte_range(file, &name);
            let shape = entry["shape"].as_array().unwrap().iter();
            let shape = shape.map(|dimension| dimension.as_u64().unwrap()).collect();
            let kind = entry["dtype"].as_str().unwrap().to_string();
            (name, (kind, shape, file[from..to].to_vec()))
        });
        Self {
            tensors: tensors.collect(),
            metadata: serde_json::from_value(metadata).unwrap(),
        }
    }

    /// Returns the file with a valid checksum, as `checksummed_file.rs` defines it.
    pub(crate) fn sealed(mut self) -> Vec<u8> {
        fn number(hash: &mut Sha256, number: u64) {
            hash.update(number.to_le_bytes());
        }
        fn field(hash: &mut Sha256, bytes: &[u8]) {
            number(hash, bytes.len() as u64);
            hash.update(bytes);
        }
        self.metadata.remove("sha256");
        let mut hash = Sha256::new();
        number(&mut hash, self.metadata.len() as u64);
        for text in self.metadata.iter().flat_map(|(key, value)| [key, value]) {
            field(&mut hash, text.as_bytes());
        }
        for (name, (kind, shape, bytes)) in &self.tensors {
            field(&mut hash, name.as_bytes());
            field(&mut hash, kind.as_bytes());
            number(&mut hash, shape.len() as u64);
            for &dimension in shape {
                number(&mut hash, dimension);
            }
            field(&mut hash, bytes);
        }
        self.metadata
            .insert("sha256".to_string(), hex(&hash.finalize()));
        self.unsealed()
    }

    /// Returns the file with its metadata unchanged, including the old checksum.
    pub(crate) fn unsealed(self) -> Vec<u8> {
        let mut header = Map::from_iter([("__metadata__".to_string(), json!(self.metadata))]);
        let mut data = Vec::new();
        for (name, (kind, shape, bytes)) in self.tensors {
            let offsets = [data.len(), data.len() + bytes.len()];
            data.extend(bytes);
            let entry = json!({ "dtype": kind, "shape": shape, "data_offsets": offsets });
            header.insert(name, entry);
        }
        let header = serde_json::to_vec(&header).unwrap();
        let length = (header.len() as u64).to_le_bytes();
        [length.as_slice(), &header, &data].concat()
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut (String, Vec<u64>, Vec<u8>) {
        self.tensors.get_mut(name).unwrap()
    }

    /// Modifies the JSON of a state's progress.
    pub(crate) fn progress(&mut self, change: impl FnOnce(&mut Value)) {
        let text = self.metadata.get_mut("progress").unwrap();
        let mut progress = serde_json::from_str(text).unwrap();
        change(&mut progress);
        *text = progress.to_string();
    }
}

/// Sets one value of a tensor.
pub(crate) fn set_value(parts: &mut Parts, tensor: &str, at: usize, value: f32) {
    parts.tensor(tensor).2[4 * at..4 * at + 4].copy_from_slice(&value.to_le_bytes());
}
