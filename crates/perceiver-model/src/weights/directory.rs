//! Reads the weights of a directory: `model.safetensors`, several safetensors files with an index,
//! or `pytorch_model.bin`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde::Deserialize;

use crate::error::{ModelError, Result};
use crate::weights::parameters::read_safetensors;
use crate::weights::pytorch::read_pytorch;

/// The names of weight files, in order of preference: transformers has the same.
const SAFETENSORS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const PYTORCH: &str = "pytorch_model.bin";

/// The weights of a directory.
#[derive(Debug)]
pub struct WeightFile {
    /// The file that was read, or the index of several files.
    pub path: PathBuf,
    /// All tensors by name, on the CPU.
    pub tensors: HashMap<String, Tensor>,
}

/// Reads the first of `model.safetensors`, `model.safetensors.index.json` and `pytorch_model.bin`
/// that a directory has, with all of its tensors.
///
/// # Errors
/// [`ModelError::NoWeights`] when the directory has none; others when the file is damaged.
pub fn read_weights(directory: impl AsRef<Path>) -> Result<WeightFile> {
    let directory = directory.as_ref();
    for name in [SAFETENSORS, INDEX, PYTORCH] {
        let path = directory.join(name);
        if path.exists() {
            let tensors = match name {
                SAFETENSORS => read_safetensors(&path)?,
                INDEX => read_indexed(directory, &path)?,
                _ => read_pytorch(&path)?,
            };
            return Ok(WeightFile { path, tensors });
        }
    }
    Err(ModelError::NoWeights {
        directory: directory.to_path_buf(),
    })
}

/// The part of an index that is read.
#[derive(Deserialize)]
struct Index {
    /// File names by tensor.
    weight_map: BTreeMap<String, String>,
}

/// Reads the files of an index.
fn read_indexed(directory: &Path, path: &Path) -> Result<HashMap<String, Tensor>> {
    let invalid = |finding: String| ModelError::WeightIndex {
        path: path.to_path_buf(),
        finding,
    };
    let text = perceiver_files::read_text(path).map_err(|error| invalid(error.to_string()))?;
    let index: Index = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
    let files: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
    // A file elsewhere is none of this model's, whoever wrote the index.
    if let Some(file) = files.iter().find(|file| !is_plain_name(file)) {
        return Err(invalid(format!(
            "expected names of .safetensors files in the same directory, found {file:?}"
        )));
    }
    let mut tensors = HashMap::new();
    for file in files {
        for (name, tensor) in read_safetensors(directory.join(file))? {
            if index.weight_map.get(&name).map(String::as_str) != Some(file) {
                let finding = format!("{file} has {name}, which the index does not say");
                return Err(invalid(finding));
            }
            tensors.insert(name, tensor);
        }
    }
    match index
        .weight_map
        .iter()
        .find(|(name, _)| !tensors.contains_key(*name))
    {
        None => Ok(tensors),
        Some((name, file)) => Err(invalid(format!("{file} lacks {name}"))),
    }
}

fn is_plain_name(file: &str) -> bool {
    let extension = Path::new(file).extension();
    !file.contains(['/', '\\', ':']) && extension.is_some_and(|it| it == "safetensors")
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn save(path: &Path, names: &[&str]) {
        let tensors = names.iter().map(|name| {
            let tensor = Tensor::new(&[name.len() as f32], &Device::Cpu).unwrap();
            ((*name).to_string(), tensor)
        });
        let tensors: HashMap<String, Tensor> = tensors.collect();
        candle_core::safetensors::save(&tensors, path).unwrap();
    }

    #[test]
    fn sharded_weights_are_read_together() {
        let directory = tempfile::tempdir().unwrap();
        let of = |name: &str| directory.path().join(name);
        let none = read_weights(directory.path()).unwrap_err();
        assert!(none.to_string().contains("found none"), "{none}");
        save(&of("model-1.safetensors"), &["a", "bb"]);
        save(&of("model-2.safetensors"), &["ccc"]);
        let index = |map: &str| {
            let text = format!(r#"{{"metadata": {{}}, "weight_map": {{{map}}}}}"#);
            std::fs::write(of(INDEX), text).unwrap();
            read_weights(directory.path())
        };
        let first = r#""a": "model-1.safetensors", "bb": "model-1.safetensors""#;
        let read = index(&format!(r#"{first}, "ccc": "model-2.safetensors""#)).unwrap();
        assert_eq!(read.path, of(INDEX));
        assert_eq!(read.tensors.len(), 3);
        assert_eq!(read.tensors["ccc"].to_vec1::<f32>().unwrap(), [3.0]);
        for (map, expected) in [
            (
                format!(r#"{first}, "d": "model-2.safetensors""#),
                "ccc, which",
            ),
            (format!(r#"{first}, "d": "model-1.safetensors""#), "lacks d"),
            (r#""a": "model-1.safetensors""#.to_string(), "has bb"),
            (
                r#""a": "../model-1.safetensors""#.to_string(),
                "same directory",
            ),
            (r#""a": "model.bin""#.to_string(), "same directory"),
        ] {
            let error = index(&map).unwrap_err().to_string();
            assert!(error.contains(expected), "{map}: {error}");
        }
        save(&of(SAFETENSORS), &["whole"]);
        assert_eq!(
            read_weights(directory.path()).unwrap().path,
            of(SAFETENSORS)
        );
    }
}
