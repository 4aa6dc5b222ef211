//! Perceiver IO checkpoints of transformers on the Hub, used by name: a repository as the
//! authors' are, with `pytorch_model.bin` only, and repositories that must be refused.

use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use perceiver_data::Image;
use perceiver_report::grouped;
use perceiver_tests::http::Response;
use perceiver_tests::hub::{Files, HubServer};
use perceiver_tests::hub_program::HubSandbox;
use perceiver_tests::program::{Sandbox, names_in};
use serde_json::{Value, json};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

const REPO: &str = "me/vision-perceiver-fourier";
const WEIGHTS: &str = "pytorch_model.bin";

/// The image processor of the published checkpoints at a quarter of their size.
const PREPROCESSOR: &str = r#"{"do_center_crop": true, "crop_size": 64, "do_resize": true, "size": 56, "resample": 3,
    "do_normalize": true, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    "feature_extractor_type": "PerceiverFeatureExtractor"}"#;

/// The probabilities of the six classes, by `oracle/perceiver_io_from_pretrained.py predict` with
/// transformers 5.24 on the fixture with the image processor above.
const EXPECTED: [(&str, [f64; 6]); 3] = [
    (
        "33x80.png",
        [0.00915, 0.07214, 0.32543, 0.03547, 0.05865, 0.49917],
    ),
    (
        "61x47.png",
        [0.08141, 0.14663, 0.06958, 0.04769, 0.07265, 0.58203],
    ),
    // More than twice as large as the model's input: the crop comes first, and nothing before it.
    (
        "pattern.png",
        [0.01452, 0.02823, 0.06348, 0.00781, 0.05166, 0.83429],
    ),
];

fn fixture(path: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/perceiver_io");
    fixtures.join(path)
}

/// The files of a repository as the authors' are.
fn checkpoint() -> Files {
    let read = |name: &str| fs::read(fixture("fourier").join(name)).unwrap();
    Files::from([
        ("README.md".to_owned(), b"# Perceiver IO".to_vec()),
        ("config.json".to_owned(), read("config.json")),
        ("preprocessor_config.json".to_owned(), PREPROCESSOR.into()),
        (WEIGHTS.to_owned(), read(WEIGHTS)),
    ])
}

/// The same with a changed `config.json`.
fn with_config(change: impl FnOnce(&mut Value)) -> Files {
    let mut files = checkpoint();
    let mut config: Value = serde_json::from_slice(&files["config.json"]).unwrap();
    change(&mut config);
    files.insert("config.json".to_owned(), config.to_string().into());
    files
}

/// A pattern that `oracle/perceiver_io_from_pretrained.py` had as a PNG file.
fn pattern() -> Image {
    let (height, width) = (230, 301);
    let value = |channel: usize, y: usize, x: usize| 3 * x + 5 * y + 40 * channel + x * y / 16;
    let rows = (0..3).flat_map(|channel| (0..height).map(move |y| (channel, y)));
    let pixels = rows.flat_map(|(channel, y)| (0..width).map(move |x| value(channel, y, x) as u8));
    Image::new(height, width, pixels.collect()).unwrap()
}

/// Starts a Hub with these files in [`REPO`], beside three images.
fn hub_with(files: Files) -> HubSandbox {
    let hub = HubServer::start();
    let mut storage = hub.storage();
    let repositories = &mut storage.repositories;
    let repository = repositories.entry(REPO.to_owned()).or_default();
    repository.commit("main", files);
    drop(storage);
    let work = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    for name in ["33x80.png", "61x47.png"] {
        fs::copy(fixture("pictures").join(name), work.path(name)).unwrap();
    }
    pattern().write_png(work.path("pattern.png")).unwrap();
    HubSandbox { work, hub }
}

fn predict(more: &str) -> String {
    format!("predict --checkpoint {REPO} 33x80.png 61x47.png pattern.png --json --top-k 6 {more}")
}

/// Returns the image and the probability of each class, in the order of the classes.
fn probabilities(line: &str) -> (String, Vec<f64>) {
    let line: Value = serde_json::from_str(line).unwrap();
    let mut classes: Vec<(String, f64)> = line["classes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            let class = it["class"].as_str().unwrap().to_owned();
            (class, it["probability"].as_f64().unwrap())
        })
        .collect();
    classes.sort_by(|a, b| a.0.cmp(&b.0));
    for (index, (class, _)) in classes.iter().enumerate() {
        assert_eq!(*class, format!("kind {index}, of fourier"));
    }
    let image = line["image"].as_str().unwrap().to_owned();
    (image, classes.into_iter().map(|class| class.1).collect())
}

#[test]
fn predictions_equal_those_of_transformers() {
    let workspace = hub_with(checkpoint());
    let predicted = workspace.succeed(&predict("-v"));
    let lines: Vec<_> = predicted.out.lines().map(probabilities).collect();
    assert_eq!(lines.len(), EXPECTED.len());
    for ((image, found), (name, expected)) in lines.iter().zip(EXPECTED) {
        assert_eq!(image, name);
        assert_eq!(found.len(), expected.len(), "{name}");
        for (found, expected) in found.iter().zip(expected) {
            let distance = (found - expected).abs();
            assert!(distance < 1e-4, "{name}: {found} instead of {expected}");
        }
    }
    assert!(predicted.err.contains(WEIGHTS), "{}", predicted.err);
    let mut names = workspace.downloaded(REPO);
    names.sort();
    names.dedup();
    assert_eq!(names, ["config.json", "preprocessor_config.json", WEIGHTS]);
    assert_eq!(workspace.assert_intact_cache(), 3);

    // The cache suffices: with the flag, and without a server.
    let asked = workspace.hub.requests().len();
    let offline = workspace.succeed(&predict("--offline"));
    assert_eq!(offline.out, predicted.out);
    assert_eq!(workspace.hub.requests().len(), asked);
    workspace
        .hub
        .refuse(|_| Some(Response::new(500, "").drop_at(0)));
    assert_eq!(workspace.succeed(&predict("")).out, predicted.out);
}

#[test]
fn attention_maps_are_drawn_by_name() {
    let workspace = hub_with(checkpoint());
    let shown = workspace.succeed(&format!(
        "attention --checkpoint {REPO} --output maps.png 33x80.png 61x47.png"
    ));
    for title in [
        "kind 5, of fourier 49.9%, 33x80.png",
        "kind 5, of fourier 58.2%, 61x47.png",
        "cross attention 1: the image, the mean, latent",
    ] {
        assert!(shown.out.contains(title), "{}", shown.out);
    }
    // Latents attend to different pixels.
    let [first, last] = [1, 7].map(|latent| {
        let command = format!("attention --checkpoint {REPO} --latent {latent} --output one.png");
        workspace.succeed(&format!("{command} 61x47.png"));
        Image::open(workspace.work.path("one.png")).unwrap()
    });
    assert_eq!(
        (first.height(), first.width()),
        (last.height(), last.width())
    );
    assert!(first != last);
    let error = workspace.run(&format!(
        "attention --checkpoint {REPO} --latent 8 --output none.png 61x47.png"
    ));
    assert_eq!(error.code, Some(2), "{}", error.err); // it has 7
    assert!(!workspace.work.path("none.png").exists());
}

#[test]
fn a_summary_counts_the_parameters() {
    let workspace = hub_with(checkpoint());
    let shown = workspace.succeed(&format!("summary {REPO}")).out;
    let device = candle_core::Device::Cpu;
    let weights =
        candle_core::safetensors::load(fixture("fourier/model.safetensors"), &device).unwrap();
    let count = weights.values().map(candle_core::Tensor::elem_count).sum();
    assert_eq!(count, 162_873); // as PyTorch counts them
    let total = shown.lines().find(|line| line.contains("total"));
    let total = total.unwrap_or_else(|| panic!("{shown}"));
    assert!(total.contains(&grouped(count)), "{total}");
}

#[test]
fn a_folder_of_named_classes_is_evaluated() {
    let workspace = hub_with(checkpoint());
    // The first is right, the second is wrong.
    for (class, name) in [(5, "33x80.png"), (1, "61x47.png")] {
        let folder = workspace
            .work
            .path(format!("photos/kind {class}, of fourier"));
        fs::create_dir_all(&folder).unwrap();
        for copy in 0..4 {
            fs::copy(
                fixture("pictures").join(name),
                folder.join(format!("{copy}-{name}")),
            )
            .unwrap();
        }
    }
    let evaluate = format!("evaluate {REPO} --dataset folder:photos --json");
    let results: Value = serde_json::from_str(&workspace.succeed(&evaluate).out).unwrap();
    assert_eq!(results["images"], 8);
    assert_eq!(results["acc"], 0.5);
    let loss = -(EXPECTED[0].1[5].ln() + EXPECTED[1].1[1].ln()) / 2.0;
    let found = results["loss"].as_f64().unwrap();
    assert!((found - loss).abs() < 1e-3, "{found} instead of {loss}");

    // A class that the model does not have.
    let from = workspace.work.path("photos/kind 1, of fourier");
    fs::rename(from, workspace.work.path("photos/badger")).unwrap();
    let error = workspace.fail(&evaluate);
    assert!(
        error.contains("\"badger\"") && error.contains("\"kind 0, of fourier\""),
        "{error}"
    );
}

/// The published models have two classes called `crane`, a bird and a machine.
#[test]
fn two_classes_may_have_the_same_name() {
    let files = with_config(|config| {
        config["id2label"]["1"] = json!("crane");
        config["id2label"]["5"] = json!("crane");
        config["label2id"] = json!({"crane": 5});
    });
    let workspace = hub_with(files);
    let predicted = workspace.succeed(&predict("")).out;
    let line: Value = serde_json::from_str(predicted.lines().next().unwrap()).unwrap();
    let found = line["classes"].as_array().unwrap();
    let cranes = found
        .iter()
        .filter(|it| it["class"].as_str().unwrap().starts_with("crane"));
    let mut probabilities = cranes.map(|it| it["probability"].as_f64().unwrap());
    for expected in [EXPECTED[0].1[5], EXPECTED[0].1[1]] {
        let found = probabilities.next().unwrap();
        assert!((found - expected).abs() < 1e-4, "{line}");
    }
    assert_eq!(probabilities.next(), None);
}

/// Asserts that each command that computes with the model refuses it, and says why.
fn assert_refused(workspace: &HubSandbox, expected: &[&str]) {
    for command in [
        format!("predict --checkpoint {REPO} 33x80.png"),
        format!("attention --checkpoint {REPO} --output maps.png 33x80.png"),
        format!("evaluate {REPO} --dataset shapes"),
    ] {
        let output = workspace.run(&command);
        assert_eq!(output.code, Some(1), "{command}: {}", output.err);
        assert!(output.out.is_empty(), "{command}: {}", output.out);
        for part in expected {
            assert!(output.err.contains(part), "{command}: {}", output.err);
        }
        assert!(!output.err.contains("panicked"), "{}", output.err);
        assert!(!workspace.work.path("maps.png").exists());
        workspace.assert_intact_cache();
    }
}

#[test]
fn a_truncated_state_dict_is_refused() {
    let whole = checkpoint()[WEIGHTS].clone();
    for length in [1, 100, whole.len() / 2, whole.len() - 1] {
        let mut files = checkpoint();
        files.insert(WEIGHTS.to_owned(), whole[..length].to_vec());
        let workspace = hub_with(files);
        assert_refused(
            &workspace,
            &[WEIGHTS, "expected a state dict that torch.save wrote"],
        );
    }
}

/// Returns the pickle of a dictionary with a call of a function, as `__reduce__` makes it.
fn call_in_pickle(function: &str, argument: &str) -> Vec<u8> {
    let text = |text: &str| {
        let length = (text.len() as u32).to_le_bytes();
        [&b"X"[..], &length, text.as_bytes()].concat()
    };
    let entry = text("perceiver.embeddings.latents");
    let call = [format!("c{function}\n").into_bytes(), text(argument)].concat();
    [&b"\x80\x02}("[..], &entry, &call, b"\x85Ru."].concat()
}

/// Returns a state dict of PyTorch with this pickle.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, content) in [
        ("data.pkl", pickle),
        ("byteorder", &b"little"[..]),
        ("version", &b"3\n"[..]),
    ] {
        archive
            .start_file(format!("pytorch_model/{name}"), stored)
            .unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

#[test]
fn a_pickle_that_calls_functions_is_refused_and_not_run() {
    for (function, name) in [
        ("os\nsystem", "os.system"),
        ("posix\nsystem", "posix.system"),
        ("subprocess\ncheck_output", "subprocess.check_output"),
        ("builtins\neval", "builtins.eval"),
    ] {
        let mut files = checkpoint();
        let trace = tempfile::tempdir().unwrap();
        let command = format!("touch {}", trace.path().join("called").display());
        let pickle = call_in_pickle(function, &command);
        files.insert(WEIGHTS.to_owned(), archive(&pickle));
        let workspace = hub_with(files);
        assert_refused(&workspace, &[WEIGHTS, "perceiver.embeddings.latents", name]);
        assert!(names_in(trace.path()).is_empty(), "{name} was called");
    }
}

fn hub_of(change: fn(&mut Value)) -> HubSandbox {
    hub_with(with_config(change))
}

#[test]
fn a_configuration_that_disagrees_with_the_weights_is_refused() {
    assert_refused(
        &hub_of(|config| config["num_latents"] = json!(8)),
        &[
            WEIGHTS,
            "perceiver.embeddings.latents",
            "expected shape [8, 24], found [7, 24]",
        ],
    );
    assert_refused(
        &hub_of(|config| config["num_self_attends_per_block"] = json!(3)),
        &[WEIGHTS, "perceiver.encoder.self_attends.2.", "is missing"],
    );
    assert_refused(
        &hub_of(|config| config["num_self_attends_per_block"] = json!(1)),
        &[
            WEIGHTS,
            "this architecture does not have",
            "perceiver.encoder.self_attends.1.",
        ],
    );
    assert_refused(
        &hub_of(|config| {
            let names = config["id2label"].as_object_mut().unwrap();
            names.insert("6".to_owned(), json!("one too many"));
        }),
        &[WEIGHTS, "perceiver.decoder.decoder.final_layer", "[7"],
    );
    assert_refused(
        &hub_of(|config| config["num_self_attention_heads"] = json!(5)),
        &["num_self_attention_heads"],
    );
}

#[test]
fn a_wrong_checksum_is_refused_and_not_cached() {
    let workspace = hub_with(checkpoint());
    workspace.hub.alter(|request, response| {
        if request.method != "GET" || !request.path.ends_with(WEIGHTS) {
            return response;
        }
        // A value of some weight, which nothing else would notice.
        let mut body = response.body().to_vec();
        let middle = body.len() / 2;
        body[middle] ^= 1;
        Response::new(200, body)
    });
    assert_refused(
        &workspace,
        &[WEIGHTS, "is a corrupt download: expected SHA-256"],
    );
    assert_eq!(workspace.assert_intact_cache(), 2, "no weights");
    workspace.hub.alter(|_, response| response);
    let predicted = workspace.succeed(&predict("")).out;
    assert_eq!(predicted.lines().count(), 3);
    assert_eq!(workspace.assert_intact_cache(), 3);
}

#[test]
fn weights_of_another_kind_or_model_are_not_downloaded() {
    // Another model: its configuration is enough to say so.
    let workspace = hub_with(with_config(|config| {
        config["model_type"] = json!("vit");
        config["architectures"] = json!(["ViTForImageClassification"]);
    }));
    assert_refused(
        &workspace,
        &["model_type \"vit\"", "ViTForImageClassification"],
    );
    let names = workspace.downloaded(REPO);
    assert!(!names.iter().any(|name| name == WEIGHTS), "{names:?}");

    // No weights that this program reads: the error says what there is instead.
    let mut files = checkpoint();
    let weights = files.remove(WEIGHTS).unwrap();
    files.insert("flax_model.msgpack".to_owned(), weights);
    let workspace = hub_with(files);
    assert_refused(
        &workspace,
        &[
            "model.safetensors, model.safetensors.index.json or pytorch_model.bin",
            "flax_model.msgpack",
        ],
    );
}
