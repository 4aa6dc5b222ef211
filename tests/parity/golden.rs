//! Reads reference values and compares tensors with them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

pub(crate) type Arrays = HashMap<String, Tensor>;

/// Returns the directories with reference values: the one in the repository and, if set, the one
/// of the environment.
pub(crate) fn directories() -> Vec<PathBuf> {
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden")];
    if let Some(more) = std::env::var_os("PERCEIVER_GOLDEN_DIR") {
        let more = PathBuf::from(more);
        assert!(
            more.is_absolute() && more.is_dir(),
            "PERCEIVER_GOLDEN_DIR: expected the absolute path of a directory, found {}",
            more.display()
        );
        directories.push(more);
    }
    directories
}

/// Returns every `perceiver_*` case of every directory: its name, configuration file and arrays.
pub(crate) fn model_cases() -> Vec<(String, serde_json::Value, Arrays)> {
    let mut cases = Vec::new();
    for directory in directories() {
        let before = cases.len();
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy();
            let is_json = path
                .extension()
                .is_some_and(|extension| extension == "json");
            if name.starts_with("perceiver_") && is_json {
                let facts = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                let arrays = read(&path.with_extension("safetensors"));
                cases.push((path.display().to_string(), facts, arrays));
            }
        }
        let added = cases.len() - before;
        assert!(added > 0, "no perceiver_*.json in {}", directory.display());
    }
    cases
}

pub(crate) fn read(path: &Path) -> Arrays {
    candle_core::safetensors::load(path, &Device::Cpu)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_dtype(DType::F32).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, v| largest.max(v.abs()))
}

/// Returns the largest difference of two tensors of the same shape, and asserts that none is NaN.
pub(crate) fn distance(actual: &Tensor, expected: &Tensor, what: &str) -> f32 {
    assert_eq!(actual.dims(), expected.dims(), "shape of {what}");
    let (actual, expected) = (values(actual), values(expected));
    assert!(actual.iter().all(|v| v.is_finite()), "{what} is not finite");
    let differences: Vec<f32> = actual.iter().zip(&expected).map(|(f, e)| f - e).collect();
    largest(&differences)
}

/// Asserts that no difference exceeds `tolerance` times the largest expected entry.
pub(crate) fn assert_close(actual: &Tensor, expected: &Tensor, tolerance: f32, what: &str) {
    let distance = distance(actual, expected, what);
    let bound = tolerance * largest(&values(expected));
    assert!(
        distance <= bound,
        "{what}: {distance:e} from Keras's, more than {bound:e}"
    );
}
