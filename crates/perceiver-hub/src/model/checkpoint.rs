//! Fetches a checkpoint with whichever kind of weight files its repository has: one safetensors
//! file, several with an index, or a PyTorch state dict.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use perceiver_files::read_text;
use serde_json::Value;

use crate::access::HubAccess;
use crate::download::snapshot::Snapshot;
use crate::error::Result;
use crate::model::ModelSource;
use crate::repo_kind::RepoKind;

const CONFIG: &str = "config.json";
const PREPROCESSOR: &str = "preprocessor_config.json";
const INDEX: &str = "model.safetensors.index.json";

impl ModelSource {
    /// The weight files that [`ModelSource::checkpoint`] looks for, in order of preference; that of
    /// `read_weights` in `perceiver-model` and of Hugging Face transformers.
    pub const WEIGHTS: [&'static str; 3] = ["model.safetensors", INDEX, "pytorch_model.bin"];

    /// Returns the directory of a checkpoint, from which `read_weights` of `perceiver-model` reads
    /// the weights. From the Hub it fetches
    ///
    /// - `config.json`,
    /// - the first of [`ModelSource::WEIGHTS`] that the repository has, and if that is an index,
    ///   the files that it names,
    /// - `preprocessor_config.json` and the files of `also`, each if it exists,
    ///
    /// and nothing else. The list of files is asked for once, so all are of one commit, and each is
    /// verified. Offline, the files are those that the cache has of this commit.
    ///
    /// A local directory is returned as it is; its contents are not checked.
    ///
    /// To refuse a model by its `config.json` before its weights are downloaded, fetch that file
    /// first:
    ///
    /// ```no_run
    /// use perceiver_hub::{HubAccess, ModelSource};
    ///
    /// let (source, access) = (ModelSource::of("deepmind/vision-perceiver-conv")?, HubAccess::from_env());
    /// let directory = source.directory(&access, &["config.json"], &[])?;
    /// println!("{}", directory.join("config.json").display()); // 70 kB; is it a model to load?
    /// let directory = source.checkpoint(&access, &[])?; // with pytorch_model.bin, 195 MB
    /// # Ok::<(), perceiver_hub::HubError>(())
    /// ```
    ///
    /// # Errors
    /// When the repository, or the cache in its place, lacks `config.json` or all of the weight
    /// files; the message says what it has. When an index is invalid, names a file in another
    /// directory, or one that the repository lacks. And all errors of
    /// [`RepoName::fetch`](crate::RepoName::fetch).
    pub fn checkpoint(&self, access: &HubAccess, also: &[&str]) -> Result<PathBuf> {
        let name = match self {
            Self::Directory(directory) => return Ok(directory.clone()),
            Self::Hub(name) => name,
        };
        let snapshot = Snapshot::open(name, RepoKind::Model, access)?;
        snapshot.fetch(CONFIG)?;
        let Some(weights) = snapshot.first_of(&Self::WEIGHTS) else {
            let [first, second, third] = Self::WEIGHTS;
            return Err(snapshot.lacks(&format!("expected {first}, {second} or {third}")));
        };
        snapshot.fetch_existing(&[PREPROCESSOR])?;
        snapshot.fetch_existing(also)?;
        let weights_path = snapshot.fetch(weights)?;
        if weights == INDEX {
            let shards = shards(&weights_path);
            let shards = shards.map_err(|finding| {
                snapshot.unusable(format!(
                    "{INDEX}: expected an index of weights in several safetensors files: {finding}"
                ))
            })?;
            for shard in shards {
                snapshot.fetch(&shard)?;
            }
        }
        snapshot.directory()
    }
}

/// Returns the names of the files that an index names, without repetition.
fn shards(index: &Path) -> Result<BTreeSet<String>, String> {
    let text = read_text(index).map_err(|error| error.to_string())?;
    let json: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or("found no weight_map")?;
    let names = map.iter().map(|(tensor, file)| match file.as_str() {
        Some(name) if is_plain_name(name) => Ok(name.to_owned()),
        Some(name) => Err(format!(
            "expected names of .safetensors files in the same directory, found {name:?}"
        )),
        None => Err(format!("expected the name of a file for {tensor:?}")),
    });
    names.collect()
}

/// Returns whether a name is that of a safetensors file beside the index. A file elsewhere is none
/// of this model's, whoever wrote the index.
fn is_plain_name(name: &str) -> bool {
    let extension = Path::new(name).extension();
    !name.contains(['/', '\\', ':']) && extension.is_some_and(|it| it == "safetensors")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards_of(index: &str) -> Result<Vec<String>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(INDEX);
        std::fs::write(&path, index).unwrap();
        Ok(shards(&path)?.into_iter().collect())
    }

    #[test]
    fn an_index_names_each_shard_once() {
        let index = r#"{"metadata": {"total_size": 12}, "weight_map": {
            "a": "model-00002-of-00002.safetensors",
            "b": "model-00001-of-00002.safetensors",
            "c": "model-00002-of-00002.safetensors"
        }}"#;
        let expected = [1, 2].map(|shard| format!("model-0000{shard}-of-00002.safetensors"));
        assert_eq!(shards_of(index).unwrap(), expected);
    }

    #[test]
    fn indices_that_lead_elsewhere_are_rejected() {
        for name in [
            "../model.safetensors",
            "sub/model.safetensors",
            "/tmp/model.safetensors",
            "..\\\\model.safetensors",
            "C:model.safetensors",
            "pytorch_model.bin",
            ".safetensors",
            "",
        ] {
            let error = shards_of(&format!(r#"{{"weight_map": {{"a": "{name}"}}}}"#)).unwrap_err();
            assert!(error.contains("in the same directory"), "{name}: {error}");
        }
        for (index, expected) in [
            ("{}", "weight_map"),
            (r#"{"weight_map": ["a"]}"#, "weight_map"),
            (r#"{"weight_map": {"a": 3}}"#, "for \"a\""),
            ("{\"weight_map\"", "EOF"),
        ] {
            let error = shards_of(index).unwrap_err();
            assert!(error.contains(expected), "{index}: {error}");
        }
    }
}
