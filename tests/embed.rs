//! `perceiver embed` and `perceiver similar`: embeddings are the input of the head, files hold them with their
//! names, and the nearest image of an image is itself.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use candle_core::{Device, Tensor};
use perceiver_data::{Image, Labels, Split, shapes};
use perceiver_model::{Features, read_weights};
use perceiver_ops::{Mode, softmax};
use perceiver_tests::program::{Sandbox, TINY_IO_MODEL, names_in, tiny_of};
use perceiver_tests::tensors::{distance, values};
use perceiver_train::{Checkpoint, Embeddings};
use serde_json::Value;

/// A head of one layer, whose input the embeddings are.
const CONFIG: &str = "train --preset quickstart --config tiny.toml --output run";

/// Returns a sandbox with a trained model in `run`, and 7 images in `pictures`, in the order of their names.
fn trained(config: Option<&str>) -> (Sandbox, Vec<Image>) {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    if let Some(config) = config {
        sandbox.write("tiny.toml", config);
    }
    sandbox.succeed(CONFIG);
    let images = shapes(Split::Test, Labels::Fine).unwrap().images()[..7].to_vec();
    fs::create_dir(sandbox.path("pictures")).unwrap();
    for (index, image) in images.iter().enumerate() {
        let path = sandbox.path(format!("pictures/{index}.png"));
        image.write_png(path).unwrap();
    }
    (sandbox, images)
}

fn embed(sandbox: &Sandbox, output: &str) -> Embeddings {
    let command = format!("embed --checkpoint run --output {output} pictures");
    assert_eq!(sandbox.succeed(&command).out, format!("{output}\n"));
    Embeddings::read(sandbox.path(output)).unwrap()
}

fn rows(embeddings: &Embeddings) -> Tensor {
    let width = embeddings.header.width();
    let all: Vec<f32> = (0..embeddings.len())
        .flat_map(|row| embeddings.row(row).to_vec())
        .collect();
    Tensor::from_vec(all, (embeddings.len(), width), &Device::Cpu).unwrap()
}

/// The logits that the weights of the head, under these names, give for embeddings.
fn through_head(run: &Path, embeddings: &Tensor, head: &str) -> Tensor {
    let weights = read_weights(run).unwrap().tensors;
    let weight = weights[&format!("{head}.weight")].t().unwrap();
    let product = embeddings.matmul(&weight.contiguous().unwrap()).unwrap();
    product
        .broadcast_add(&weights[&format!("{head}.bias")])
        .unwrap()
}

fn probabilities_of_predict(sandbox: &Sandbox) -> Vec<HashMap<String, f64>> {
    let output =
        sandbox.succeed("predict --checkpoint run --flip-average=false --top-k 20 --json pictures");
    let lines = output.out.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        let classes = line["classes"].as_array().unwrap().iter();
        let named = classes.map(|class| {
            let name = class["class"].as_str().unwrap().to_string();
            (name, class["probability"].as_f64().unwrap())
        });
        named.collect()
    });
    lines.collect()
}

#[test]
fn embeddings_times_the_heads_weights_are_the_logits_of_predict() {
    for (config, head) in [
        (None, "head.0"),
        (
            Some(tiny_of(TINY_IO_MODEL)),
            "perceiver.decoder.decoder.final_layer",
        ),
    ] {
        let (sandbox, images) = trained(config.as_deref());
        let embeddings = embed(&sandbox, "e.safetensors");
        assert_eq!(
            (embeddings.len(), embeddings.header.shape.as_slice()),
            (7, &[8][..])
        );
        let found = through_head(&sandbox.path("run"), &rows(&embeddings), head);
        let checkpoint = Checkpoint::open(sandbox.path("run"), &Device::Cpu).unwrap();
        let input = checkpoint.input(&images).unwrap();
        let expected = checkpoint.model.forward(&input, Mode::Inference).unwrap();
        let spread = values(&expected)
            .into_iter()
            .fold(0.0, |most: f32, v| most.max(v.abs()));
        assert!(spread > 0.05, "the logits are alike: {spread}");
        let difference = distance(&found, &expected);
        assert!(difference < 1e-5 * spread.max(1.0), "{head}: {difference}");

        let found = softmax(&found).unwrap().to_vec2::<f32>().unwrap();
        for (row, predicted) in found.iter().zip(probabilities_of_predict(&sandbox)) {
            for (class, probability) in checkpoint.config.classes.iter().zip(row) {
                let difference = predicted[class] - f64::from(*probability);
                assert!(difference.abs() < 1e-5, "{class}: {difference}");
            }
        }
    }
}

#[test]
fn pooled_embeddings_are_the_mean_of_all_latents() {
    let (sandbox, images) = trained(None);
    sandbox.succeed("embed --checkpoint run --latents all --output all.npy pictures");
    let all = Embeddings::read(sandbox.path("all.npy")).unwrap();
    assert_eq!(
        (all.header.features, all.header.shape.as_slice()),
        (Features::Latents, &[4, 8][..])
    );
    let checkpoint = Checkpoint::open(sandbox.path("run"), &Device::Cpu).unwrap();
    let latents = checkpoint.features(&images, Features::Latents).unwrap();
    assert_eq!(latents.dims(), [7, 4, 8]);
    assert_eq!(values(&latents), values(&rows(&all)));
    assert!(!checkpoint.config.model.perceiver().unwrap().norm_pooled);
    let pooled = rows(&embed(&sandbox, "pooled.npy"));
    assert!(distance(&latents.mean(1).unwrap(), &pooled) < 1e-5);
}

#[test]
fn every_format_has_the_same_values_and_names() {
    let (sandbox, _) = trained(None);
    let expected = embed(&sandbox, "e.safetensors");
    let names: Vec<String> = (0..7)
        .map(|index| format!("pictures/{index}.png"))
        .collect();
    let found: Vec<&String> = expected.images.iter().map(|image| &image.image).collect();
    assert_eq!(found, names.iter().collect::<Vec<_>>());
    for output in ["e.npy", "e.parquet"] {
        assert_eq!(embed(&sandbox, output), expected, "{output}");
    }
    // candle's readers of both formats, which know nothing of ours.
    let loaded = candle_core::safetensors::load(sandbox.path("e.safetensors"), &Device::Cpu);
    assert_eq!(
        values(&loaded.unwrap()["embeddings"]),
        values(&rows(&expected))
    );
    let loaded = Tensor::read_npy(sandbox.path("e.npy")).unwrap();
    assert_eq!(loaded.dims(), [7, 8]);
    assert_eq!(values(&loaded), values(&rows(&expected)));
    // Once more: the same bytes, and no temporary files.
    let before = fs::read(sandbox.path("e.npy")).unwrap();
    embed(&sandbox, "e.npy");
    assert_eq!(fs::read(sandbox.path("e.npy")).unwrap(), before);
    let files = names_in(sandbox.path("").as_path());
    let expected = [
        "e.npy",
        "e.npy.json",
        "e.parquet",
        "e.safetensors",
        "pictures",
        "run",
        "tiny.toml",
    ];
    assert_eq!(files, expected);
}

#[test]
fn a_list_on_standard_input_gives_the_embeddings_of_the_folder() {
    let (sandbox, _) = trained(None);
    let expected = embed(&sandbox, "folder.npy");
    let mut command = sandbox.command("embed --checkpoint run --output list.npy --null -");
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let list: Vec<String> = (0..7)
        .map(|index| format!("pictures/{index}.png\0"))
        .collect();
    let list = list.concat();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(list.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(
        Embeddings::read(sandbox.path("list.npy")).unwrap(),
        expected
    );
}

#[test]
fn unreadable_images_are_reported_and_left_out() {
    let (sandbox, _) = trained(None);
    sandbox.write("pictures/3.png", "not a picture");
    let output = sandbox.run("embed --checkpoint run --output e.npy pictures missing.png");
    assert_eq!(output.code, Some(1));
    assert!(
        output.err.contains("3.png is not a readable image"),
        "{}",
        output.err
    );
    assert!(output.err.contains("missing.png"), "{}", output.err);
    let embeddings = Embeddings::read(sandbox.path("e.npy")).unwrap();
    let names: Vec<&str> = embeddings
        .images
        .iter()
        .map(|image| image.image.as_str())
        .collect();
    assert_eq!(names.len(), 6);
    assert!(!names.contains(&"pictures/3.png"));

    // Without any image, the old file stays.
    let before = fs::read(sandbox.path("e.npy")).unwrap();
    let output = sandbox.run("embed --checkpoint run --output e.npy missing.png");
    assert_eq!(output.code, Some(1));
    assert!(
        output
            .err
            .contains("not written, as no image could be read"),
        "{}",
        output.err
    );
    assert_eq!(fs::read(sandbox.path("e.npy")).unwrap(), before);
}

/// The names and scores of the images that `similar --json` finds for one image.
fn similar(sandbox: &Sandbox, arguments: &str, score: &str) -> Vec<(String, f64)> {
    let line = sandbox.succeed(&format!("similar --json {arguments}")).out;
    let found: Value = serde_json::from_str(&line).unwrap();
    let found = found["similar"].as_array().unwrap().iter();
    let named = found.map(|image| {
        let name = image["image"].as_str().unwrap().to_string();
        (name, image[score].as_f64().unwrap())
    });
    named.collect()
}

#[test]
fn an_image_of_the_index_finds_itself_first() {
    let (sandbox, _) = trained(None);
    let embeddings = embed(&sandbox, "e.parquet");
    embed(&sandbox, "e.npy");
    for index in ["e.parquet", "e.npy"] {
        for image in 0..7 {
            let query = format!("pictures/{image}.png --index {index}");
            let found = similar(&sandbox, &query, "similarity");
            assert_eq!(found.len(), 5);
            assert_eq!(found[0].0, format!("pictures/{image}.png"));
            assert!((found[0].1 - 1.0).abs() < 1e-9, "{}", found[0].1);
            assert!(found.is_sorted_by(|a, b| a.1 >= b.1));
            let found = similar(
                &sandbox,
                &format!("{query} --metric euclidean --top-k 9"),
                "distance",
            );
            assert_eq!(found.len(), 7);
            assert_eq!(found[0].0, format!("pictures/{image}.png"));
            assert!(found[0].1 < 1e-6 && found.is_sorted_by(|a, b| a.1 <= b.1));
        }
    }
    // The cosine by its definition.
    let found = similar(
        &sandbox,
        "pictures/0.png --index e.npy --top-k 7",
        "similarity",
    );
    let of = |name: &str| {
        embeddings
            .images
            .iter()
            .position(|image| image.image == name)
            .unwrap()
    };
    let dot = |a: usize, b: usize| {
        let pairs = embeddings.row(a).iter().zip(embeddings.row(b));
        pairs
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum::<f64>()
    };
    for (name, score) in found {
        let other = of(&name);
        let expected = dot(0, other) / (dot(0, 0) * dot(other, other)).sqrt();
        assert!(
            (score - expected).abs() < 1e-6,
            "{name}: {score}, not {expected}"
        );
    }
    let shown = sandbox
        .succeed("similar pictures/2.png --index e.npy --top-k 1")
        .out;
    assert_eq!(shown, "pictures/2.png\n    1.0000  pictures/2.png\n");
    let several = sandbox
        .succeed("similar pictures --index e.npy --top-k 2 --json")
        .out;
    assert_eq!(several.lines().count(), 7);
    // Other images than those of the index, and an index of all latents.
    fs::copy(sandbox.path("pictures/5.png"), sandbox.path("copy.png")).unwrap();
    sandbox.succeed("embed --checkpoint run --latents all --output all.safetensors pictures");
    let found = similar(&sandbox, "copy.png --index all.safetensors", "similarity");
    assert_eq!(found[0].0, "pictures/5.png");
    assert!((found[0].1 - 1.0).abs() < 1e-9);
}

#[test]
fn another_checkpoint_is_an_error_that_names_both() {
    let (sandbox, _) = trained(None);
    embed(&sandbox, "e.npy");
    sandbox.succeed(
        "train --preset quickstart --config tiny.toml --output other --set training.seed=9",
    );
    let output = sandbox.run("similar pictures/0.png --index e.npy --checkpoint other");
    assert_eq!(output.code, Some(1));
    let sha256 = |run: &str| {
        let checkpoint = Checkpoint::open(sandbox.path(run), &Device::Cpu).unwrap();
        checkpoint.weights_sha256().unwrap()[..16].to_string()
    };
    for part in [
        format!("checkpoint run (weights with sha256 {}", sha256("run")),
        format!("other (weights with sha256 {}", sha256("other")),
        "e.npy".to_string(),
    ] {
        assert!(output.err.contains(&part), "{part:?} in {}", output.err);
    }
    // A moved checkpoint is the same one.
    fs::rename(sandbox.path("run"), sandbox.path("moved")).unwrap();
    let output = sandbox.run("similar pictures/0.png --index e.npy");
    assert_eq!(output.code, Some(2), "{}", output.err);
    assert!(
        output.err.contains("checkpoint of --index run"),
        "{}",
        output.err
    );
    sandbox.succeed("similar pictures/0.png --index e.npy --checkpoint moved");
}

#[test]
fn errors_name_the_file_and_what_to_do() {
    let (sandbox, _) = trained(None);
    embed(&sandbox, "e.npy");
    fs::write(sandbox.path("no.npy"), "no array").unwrap();
    fs::copy(sandbox.path("e.npy.json"), sandbox.path("no.npy.json")).unwrap();
    fs::copy(sandbox.path("e.npy"), sandbox.path("alone.npy")).unwrap();
    for (arguments, code, message) in [
        (
            "embed --checkpoint run --output e.csv pictures",
            2,
            "--output e.csv: expected a name that ends in .npy",
        ),
        (
            "embed --checkpoint run --output nowhere/e.npy pictures",
            1,
            "nowhere/e.npy",
        ),
        ("embed --checkpoint run pictures", 2, "--output <FILE>"),
        ("embed --checkpoint run --output e.npy", 2, "<IMAGE>"),
        (
            "similar pictures/0.png --index e.txt",
            2,
            "--index e.txt: expected a name that ends in .npy",
        ),
        (
            "similar pictures/0.png --index missing.npy",
            1,
            "missing.npy",
        ),
        (
            "similar pictures/0.png --index no.npy",
            1,
            "found no NumPy array",
        ),
        (
            "similar pictures/0.png --index alone.npy",
            1,
            "alone.npy.json",
        ),
        (
            "similar pictures/0.png --index e.npy --top-k 0",
            2,
            "expected at least 1",
        ),
        ("similar missing.png --index e.npy", 1, "missing.png"),
    ] {
        let output = sandbox.run(arguments);
        assert_eq!(output.code, Some(code), "{arguments}: {}", output.err);
        assert!(
            output.err.contains(message),
            "{arguments}: {message:?} in {}",
            output.err
        );
        assert!(!output.err.contains("panicked"), "{}", output.err);
    }
}

#[cfg(unix)]
#[test]
fn any_file_name_is_found_again() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let (sandbox, images) = trained(None);
    let hostile = [
        &b"a, \"b\".png"[..],
        b"two\nlines.png",
        b"\x1b[2J.png",
        b"not utf-8 \xff.png",
    ];
    fs::create_dir(sandbox.path("odd")).unwrap();
    for (name, image) in hostile.iter().zip(&images) {
        let path: PathBuf = sandbox.path("odd").join(OsStr::from_bytes(name));
        image.write_png(path).unwrap();
    }
    for output in ["odd.npy", "odd.safetensors", "odd.parquet"] {
        sandbox.succeed(&format!("embed --checkpoint run --output {output} odd"));
        let embeddings = Embeddings::read(sandbox.path(output)).unwrap();
        for name in hostile {
            let path = Path::new("odd").join(OsStr::from_bytes(name));
            let shown = path.to_string_lossy();
            let image = embeddings.images.iter().find(|image| image.image == shown);
            let encoded = &image.expect("the name").image_percent_encoded;
            assert_eq!(encoded.is_some(), path.to_str().is_none());
        }
        let shown = sandbox.succeed(&format!("similar odd --index {output} --top-k 1"));
        assert_eq!(shown.out.lines().count(), 8, "{}", shown.out);
        assert!(!shown.out.contains('\x1b'), "{}", shown.out);
    }
    let encoded = fs::read_to_string(sandbox.path("odd.npy.json")).unwrap();
    assert!(encoded.contains("odd/not%20utf-8%20%FF.png"), "{encoded}");
}
