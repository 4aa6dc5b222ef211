//! Which files of a model repository are fetched: `config.json`, `preprocessor_config.json` and one
//! kind of weight files, all of one commit, and nothing else.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use perceiver_hub::{HubAccess, HubError, ModelSource};
use perceiver_model::read_weights;
use perceiver_tests::http::Response;
use perceiver_tests::hub::{Files, HubServer, TOKEN};
use perceiver_tests::program::names_in;

const REPO: &str = "me/model";
const INDEX: &str = "model.safetensors.index.json";
const SHARDS: [&str; 2] = [
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
];

/// Returns a safetensors file with one tensor of this name.
fn safetensors(name: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weights.safetensors");
    let tensor = Tensor::new(&[name.len() as f32], &Device::Cpu).unwrap();
    candle_core::safetensors::save(&HashMap::from([(name, tensor)]), &path).unwrap();
    std::fs::read(path).unwrap()
}

fn state_dict() -> Vec<u8> {
    let fixture = "fixtures/perceiver_io/fourier/pytorch_model.bin";
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(fixture)).unwrap()
}

fn index(shards: &[&str]) -> Vec<u8> {
    let entries = shards.iter().zip(["a", "bb"]);
    let entries: Vec<String> = entries
        .map(|(shard, tensor)| format!("{tensor:?}: {shard:?}"))
        .collect();
    format!(r#"{{"weight_map": {{{}}}}}"#, entries.join(", ")).into()
}

/// A file that a repository may have, and that no loader needs.
fn beside() -> Files {
    let names = [
        "README.md",
        "flax_model.msgpack",
        "tf_model.h5",
        "onnx/model.onnx",
    ];
    let files = names.map(|name| (name.to_owned(), b"another program's".to_vec()));
    Files::from(files)
}

fn add(files: &mut Files, name: &str, content: impl Into<Vec<u8>>) {
    files.insert(name.to_owned(), content.into());
}

/// The weights of all three kinds.
fn all_weights() -> Files {
    let mut files = Files::new();
    add(&mut files, "model.safetensors", safetensors("whole"));
    add(&mut files, INDEX, index(&SHARDS));
    add(&mut files, SHARDS[0], safetensors("a"));
    add(&mut files, SHARDS[1], safetensors("bb"));
    add(&mut files, "pytorch_model.bin", state_dict());
    files
}

/// A Hub with one repository, and the cache of a client.
struct Client {
    hub: HubServer,
    cache: tempfile::TempDir,
}

impl Client {
    /// Creates a repository with `config.json`, files that no loader needs, and `files`.
    fn new(files: Files) -> Self {
        let mut all = beside();
        add(&mut all, "config.json", "{}");
        all.extend(files);
        Self::with(all)
    }

    fn with(files: Files) -> Self {
        let hub = HubServer::start();
        let mut storage = hub.storage();
        let repository = storage.repositories.entry(REPO.to_owned()).or_default();
        repository.commit("main", files);
        drop(storage);
        let cache = tempfile::tempdir().unwrap();
        Self { hub, cache }
    }

    fn access(&self, offline: bool) -> HubAccess {
        HubAccess {
            endpoint: Some(self.hub.url()),
            cache_dir: Some(self.cache.path().to_owned()),
            token: Some(TOKEN.into()),
            offline,
            ..HubAccess::default()
        }
    }

    fn fetched(&self) -> Result<PathBuf, HubError> {
        ModelSource::of(REPO)?.checkpoint(&self.access(false), &["results.json"])
    }

    fn fetched_offline(&self) -> Result<PathBuf, HubError> {
        ModelSource::of(REPO)?.checkpoint(&self.access(true), &["results.json"])
    }

    fn refusal(&self) -> String {
        let error = self.fetched().unwrap_err().to_string();
        assert!(!error.contains(TOKEN), "{error}");
        error
    }

    /// Returns the names of the files that were asked for, and how often the list of files was.
    fn asked(&self) -> (Vec<String>, usize) {
        let requests = self.hub.requests();
        let downloads = requests.iter().filter(|request| request.method == "GET");
        let paths = downloads.filter_map(|request| request.path.split_once("/resolve/"));
        let names = paths.filter_map(|(_, rest)| rest.split_once('/'));
        let mut names: Vec<String> = names.map(|(_, name)| name.to_owned()).collect();
        names.sort();
        let lists = requests.iter().filter(|it| it.path.contains("/tree/"));
        (names, lists.count())
    }
}

/// The files that a repository with `weights` must yield.
fn expected(weights: &[&str]) -> Vec<String> {
    let mut expected = vec!["config.json".to_owned()];
    expected.extend(weights.iter().map(|name| (*name).to_owned()));
    expected.sort();
    expected
}

#[test]
fn the_first_kind_of_weights_is_fetched_and_read() {
    let kinds: [&[&str]; 3] = [
        &["model.safetensors"],
        &[INDEX, SHARDS[0], SHARDS[1]],
        &["pytorch_model.bin"],
    ];
    assert_eq!(ModelSource::WEIGHTS, kinds.map(|names| names[0]));
    let mut files = all_weights();
    for weights in kinds {
        let client = Client::new(files.clone());
        let directory = client.fetched().unwrap();
        assert_eq!(client.asked(), (expected(weights), 1));
        assert_eq!(names_in(&directory), expected(weights));
        let read = read_weights(&directory).unwrap();
        assert_eq!(read.path, directory.join(weights[0]));
        for weight in weights {
            assert!(
                std::fs::read(directory.join(weight)).unwrap() == files[*weight],
                "{weight}"
            );
        }
        // The cache has all that is needed, and asks for nothing.
        let before = client.hub.requests().len();
        assert_eq!(client.fetched_offline().unwrap(), directory);
        assert_eq!(client.hub.requests().len(), before);
        // Without this kind, the next one is taken.
        assert_eq!(
            ModelSource::WEIGHTS
                .iter()
                .filter(|it| **it == weights[0])
                .count(),
            1
        );
        files.remove(weights[0]);
    }
    let error = Client::new(files).refusal();
    assert!(
        error.contains(
            "expected model.safetensors, model.safetensors.index.json or pytorch_model.bin at main, \
             found README.md, config.json, flax_model.msgpack"
        ),
        "{error}"
    );
}

#[test]
fn optional_files_are_fetched_if_they_exist() {
    let mut files = Files::new();
    add(&mut files, "pytorch_model.bin", state_dict());
    add(&mut files, "preprocessor_config.json", r#"{"size": 224}"#);
    add(&mut files, "results.json", r#"{"acc": 1}"#);
    let client = Client::new(files);
    let directory = client.fetched().unwrap();
    let names = expected(&[
        "preprocessor_config.json",
        "pytorch_model.bin",
        "results.json",
    ]);
    assert_eq!(names_in(&directory), names);
    assert_eq!(client.asked(), (names, 1));
}

#[test]
fn a_configuration_can_be_read_before_the_weights() {
    let client = Client::new(all_weights());
    let source = ModelSource::of(REPO).unwrap();
    let first = source
        .directory(&client.access(false), &["config.json"], &[])
        .unwrap();
    assert_eq!(names_in(&first), ["config.json"]);
    // Offline there is then a configuration, and no weights.
    let error = client.fetched_offline().unwrap_err().to_string();
    assert!(
        error.contains("or pytorch_model.bin at main, found config.json in the cache"),
        "{error}"
    );
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    // The weights come into the same directory, and nothing comes twice.
    assert_eq!(client.fetched().unwrap(), first);
    assert_eq!(client.asked().0, expected(&["model.safetensors"]));
}

#[test]
fn a_repository_without_a_configuration_is_refused() {
    let mut files = all_weights();
    add(&mut files, "README.md", "# weights");
    let client = Client::with(files);
    let error = client.refusal();
    assert!(
        error.contains("there is no config.json at main, found README.md, model-00001-of-00002"),
        "{error}"
    );
    let (names, _) = client.asked();
    assert!(names.is_empty(), "{names:?}");
}

#[test]
fn an_index_leads_to_no_other_directory() {
    for shard in [
        "../../../evil.safetensors",
        "onnx/model.safetensors",
        "/evil.safetensors",
    ] {
        let mut files = Files::new();
        add(&mut files, INDEX, index(&[shard]));
        add(&mut files, "onnx/model.safetensors", safetensors("a"));
        let client = Client::new(files);
        let error = client.refusal();
        let found = format!("in the same directory, found {shard:?}");
        assert!(error.contains(INDEX) && error.contains(&found), "{error}");
        assert_eq!(client.asked().0, expected(&[INDEX]), "{shard}");
    }
    // A shard that the repository lacks.
    let mut files = Files::new();
    add(&mut files, INDEX, index(&SHARDS));
    add(&mut files, SHARDS[0], safetensors("a"));
    let error = Client::new(files).refusal();
    let missing = format!("there is no {} at main, found ", SHARDS[1]);
    assert!(error.contains(&missing), "{error}");
}

#[test]
fn a_shard_with_other_content_is_removed() {
    let mut files = all_weights();
    files.remove("model.safetensors");
    let client = Client::new(files);
    client.hub.alter(|request, response| {
        if request.method != "GET" || !request.path.ends_with(SHARDS[1]) {
            return response;
        }
        let mut body = response.body().to_vec();
        let last = body.len() - 1;
        body[last] ^= 1;
        Response::new(200, body)
    });
    let error = client.refusal();
    assert!(
        error.contains(SHARDS[1]) && error.contains("corrupt download"),
        "{error}"
    );
    assert!(client.fetched_offline().is_err(), "half of the weights");
    // With honest answers, the same cache yields the model.
    client.hub.alter(|_, response| response);
    let directory = client.fetched().unwrap();
    assert_eq!(read_weights(&directory).unwrap().tensors.len(), 2);
}

#[test]
fn a_directory_is_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let source = ModelSource::of(directory.path().to_str().unwrap()).unwrap();
    let access = HubAccess {
        offline: true,
        ..HubAccess::default()
    };
    assert_eq!(source.checkpoint(&access, &[]).unwrap(), directory.path());
    assert!(names_in(directory.path()).is_empty());
}
