//! Reads PyTorch weight files: state dicts that `torch.save` wrote, such as `pytorch_model.bin`.
//!
//! Such a file is a zip archive without compression: a pickle that describes the tensors, and one
//! file per storage. Pickles can call any Python function; [`pickle`] knows the few calls that
//! state dicts have and calls nothing.

mod pickle;

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::rc::Rc;

use candle_core::{DType, Device, Tensor};
use perceiver_files::{open_regular, read_limited};
use zip::ZipArchive;

use crate::error::{ModelError, Result};

/// The maximum size of the pickle in bytes. That of a model with 140 tensors has 30 KiB.
const MOST_PICKLE_BYTES: u64 = 4 << 20;

/// A tensor's place in the archive.
#[derive(Clone, Debug, PartialEq)]
struct StoredTensor {
    /// Name of the storage.
    storage: Rc<str>,
    dtype: DType,
    /// Index of the first value in the storage.
    offset: usize,
    shape: Vec<usize>,
    /// Distances between values, in values.
    strides: Vec<usize>,
}

/// Reads all tensors of a PyTorch state dict, on the CPU. No code of the file runs.
///
/// # Errors
/// [`ModelError::UnreadableStateDict`] when the file is missing, damaged or no state dict, with the
/// name of the first entry that is no tensor.
pub fn read_pytorch(path: impl AsRef<Path>) -> Result<HashMap<String, Tensor>> {
    let path = path.as_ref();
    read(path).map_err(|finding| ModelError::UnreadableStateDict {
        path: path.to_path_buf(),
        finding,
    })
}

type Archive = ZipArchive<BufReader<File>>;

fn read(path: &Path) -> Result<HashMap<String, Tensor>, String> {
    let (file, size) = open_regular(path).map_err(|error| error.to_string())?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| error.to_string())?;
    let Some(folder) = folder(&archive) else {
        return Err("found an archive without data.pkl".to_string());
    };
    let byte_order = format!("{folder}byteorder"); // files of older versions have none
    if archive.index_for_name(&byte_order).is_some() {
        let order = entry(&mut archive, &byte_order, 16)?;
        if order.trim_ascii() != b"little" {
            return Err("found numbers that do not begin with their lowest byte".to_string());
        }
    }
    let text = entry(
        &mut archive,
        &format!("{folder}data.pkl"),
        MOST_PICKLE_BYTES,
    )?;
    let mut entries = pickle::state_dict(&text)?;
    entries.sort_by(|(_, one), (_, other)| one.storage.cmp(&other.storage));
    let mut tensors = HashMap::new();
    // Several tensors may share a storage, and several storages the bytes of the archive; without
    // limits, a short file could fill memory or take hours.
    let (mut rest, mut unread) = (size, size);
    for views in entries.chunk_by(|(_, one), (_, other)| one.storage == other.storage) {
        let (first, view) = &views[0];
        let storage = format!("{folder}data/{}", view.storage);
        let storage = entry(&mut archive, &storage, unread)
            .map_err(|finding| format!("{first}: {finding}"))?;
        unread -= storage.len() as u64;
        for (name, stored) in views {
            let named = |finding: String| format!("{name}: {finding}");
            rest = stored
                .byte_count()
                .and_then(|bytes| rest.checked_sub(bytes as u64))
                .ok_or_else(|| named("the tensors are larger than the file".to_string()))?;
            let tensor = stored.load(&storage).map_err(named)?;
            if tensors.insert(name.to_string(), tensor).is_some() {
                return Err(named("found twice".to_string()));
            }
        }
    }
    Ok(tensors)
}

/// Returns the folder of the archive that has the pickle, with a `/` at its end.
fn folder(archive: &Archive) -> Option<String> {
    archive.file_names().find_map(|name| {
        let name = name.ok()?;
        Some(name.strip_suffix("data.pkl")?.to_string())
    })
}

/// Reads a file of the archive and verifies its checksum.
fn entry(archive: &mut Archive, name: &str, limit: u64) -> Result<Vec<u8>, String> {
    let named = |error: &dyn std::fmt::Display| format!("{name} in the archive: {error}");
    let file = archive.by_name(name).map_err(|error| named(&error))?;
    read_limited(file, limit).map_err(|error| named(&error))
}

impl StoredTensor {
    /// Returns the number of values; `None` on overflow, also of the sides beside an empty one:
    /// candle multiplies them for the strides.
    fn count(&self) -> Option<usize> {
        let mut sides = self.shape.iter().filter(|side| **side > 0);
        let count = sides.try_fold(1_usize, |count, &side| count.checked_mul(side))?;
        Some(if self.shape.contains(&0) { 0 } else { count })
    }

    fn byte_count(&self) -> Option<usize> {
        self.count()?.checked_mul(self.dtype.size_in_bytes())
    }

    /// Returns the index behind the last value in the storage; `None` on overflow.
    fn end(&self) -> Option<usize> {
        if self.shape.contains(&0) {
            return Some(self.offset);
        }
        let mut sides = self.shape.iter().zip(&self.strides);
        sides.try_fold(self.offset.checked_add(1)?, |end, (side, stride)| {
            end.checked_add((side - 1).checked_mul(*stride)?)
        })
    }

    /// Returns whether the values lie in row-major order without gaps. Expects at least one.
    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for (&side, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if side > 1 && stride != expected {
                return false;
            }
            expected *= side;
        }
        true
    }

    /// Loads the values from the bytes of the storage.
    fn load(&self, storage: &[u8]) -> Result<Tensor, String> {
        let width = self.dtype.size_in_bytes();
        let held = storage.len() / width;
        let (Some(count), Some(end)) = (self.count(), self.end()) else {
            return Err("its size overflows".to_string());
        };
        if end > held || count > held {
            return Err(format!(
                "expected {} values in storage {}, found {held}",
                end.max(count),
                self.storage
            ));
        }
        let mut gathered = Vec::new();
        let bytes = if count == 0 || self.is_contiguous() {
            &storage[self.offset * width..(self.offset + count) * width]
        } else {
            gathered.reserve_exact(count * width);
            for index in 0..count {
                let (mut rest, mut at) = (index, self.offset);
                for (side, stride) in self.shape.iter().zip(&self.strides).rev() {
                    at += rest % side * stride;
                    rest /= side;
                }
                gathered.extend_from_slice(&storage[at * width..(at + 1) * width]);
            }
            &gathered
        };
        Tensor::from_raw_buffer(bytes, self.dtype, &self.shape, &Device::Cpu)
            .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn stored(offset: usize, shape: &[usize], strides: &[usize]) -> StoredTensor {
        StoredTensor {
            storage: "0".into(),
            dtype: DType::F32,
            offset,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
        }
    }

    fn load(stored: &StoredTensor) -> Result<Vec<f32>, String> {
        let storage: Vec<u8> = (0_u8..12)
            .flat_map(|i| f32::from(i).to_le_bytes())
            .collect();
        let tensor = stored.load(&storage)?;
        assert_eq!(tensor.dims(), stored.shape);
        Ok(tensor.flatten_all().unwrap().to_vec1().unwrap())
    }

    #[test]
    fn tensors_are_views_of_storages() {
        assert_eq!(
            load(&stored(2, &[2, 2], &[2, 1])).unwrap(),
            [2.0, 3.0, 4.0, 5.0]
        );
        assert_eq!(
            load(&stored(0, &[2, 3], &[1, 2])).unwrap(),
            [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]
        );
        assert_eq!(load(&stored(11, &[], &[])).unwrap(), [11.0]);
        assert_eq!(load(&stored(4, &[1, 2], &[9, 1])).unwrap(), [4.0, 5.0]);
        assert_eq!(load(&stored(3, &[3], &[0])).unwrap(), [3.0; 3]);
        assert!(load(&stored(12, &[2, 0], &[1, 1])).unwrap().is_empty());
    }

    #[test]
    fn empty_tensors_of_any_sides_are_loaded_or_rejected() {
        let half = 1 << (usize::BITS / 2);
        for shape in [[0, half, half], [half, half, 0], [half, 0, half]] {
            let error = load(&stored(0, &shape, &[1, 1, 1])).unwrap_err();
            assert!(error.contains("overflows"), "{error}");
        }
    }

    #[test]
    fn views_beyond_their_storage_are_rejected() {
        for (offset, shape, strides) in [
            (11, [1, 2], [2, 1]),
            (0, [2, 2], [11, 1]),
            (0, [13, 1], [0, 1]),
            (usize::MAX, [1, 1], [1, 1]),
            (0, [usize::MAX, 2], [1, 1]),
            (0, [2, 2], [usize::MAX, 2]),
        ] {
            let error = load(&stored(offset, &shape, &strides)).unwrap_err();
            let is_named = error.contains("values in storage 0") || error.contains("overflows");
            assert!(is_named, "{error}");
        }
    }

    #[test]
    fn other_files_are_rejected() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pytorch_model.bin");
        for content in [&b""[..], b"\x80\x02}q\x00.", b"PK\x03\x04"] {
            std::fs::write(&path, content).unwrap();
            let error = read_pytorch(&path).unwrap_err();
            assert!(
                error.to_string().contains("expected a state dict"),
                "{error}"
            );
        }
    }

    /// Pushes a name and a tensor of the first value of a storage.
    fn entry_in_pickle(name: u8, storage: u8) -> Vec<u8> {
        let call = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage";
        let class = b"ctorch\nFloatStorage\nX\x01\x00\x00\x00";
        let rest = b"tQK\x00K\x01\x85K\x01\x85tR";
        let name = [&b"X\x01\x00\x00\x00"[..], &[name]].concat();
        [&name[..], call, class, &[storage], rest].concat()
    }

    #[test]
    fn storages_that_share_the_bytes_of_the_archive_are_rejected() {
        let pickle = [
            &b"\x80\x02}("[..],
            &entry_in_pickle(b'v', b'0'),
            &entry_in_pickle(b'w', b'1'),
            &entry_in_pickle(b'x', b'0'),
            b"u.",
        ];
        let values = 7_f32.to_le_bytes().repeat(1000);
        let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let stored = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored);
        let files = [
            ("data.pkl", &pickle.concat()),
            ("data/0", &values),
            ("data/1", &values),
        ];
        for (name, content) in files {
            archive.start_file(name, stored).unwrap();
            archive.write_all(content).unwrap();
        }
        let whole = archive.finish().unwrap().into_inner();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pytorch_model.bin");
        std::fs::write(&path, &whole).unwrap();
        let tensors = read_pytorch(&path).unwrap();
        assert_eq!(tensors.len(), 3);
        for tensor in tensors.values() {
            assert_eq!(tensor.to_vec1::<f32>().unwrap(), [7.0]);
        }

        // Without the second storage's bytes, and with its entry at those of the first.
        let find = |text: &[u8]| whole.windows(text.len()).rposition(|window| window == text);
        let start = whole
            .windows(6)
            .position(|window| window == b"data/1")
            .unwrap()
            - 30;
        let directory_start = whole
            .windows(4)
            .position(|window| window == b"PK\x01\x02")
            .unwrap();
        let removed = directory_start - start;
        let mut short = whole.clone();
        let first = find(b"data/0").unwrap() - 46;
        let second = find(b"data/1").unwrap() - 46;
        short.copy_within(first + 42..first + 46, second + 42);
        let end = find(b"PK\x05\x06").unwrap();
        short[end + 16..end + 20].copy_from_slice(&(start as u32).to_le_bytes());
        short.drain(start..start + removed);
        std::fs::write(&path, &short).unwrap();
        let error = read_pytorch(&path).unwrap_err().to_string();
        assert!(error.contains("data/1 in the archive"), "{error}");
    }
}
