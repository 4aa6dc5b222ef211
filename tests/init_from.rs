//! Runs initialized from the weights of a checkpoint: the same model, other classes, images of
//! another size.

use std::fs;
use std::path::Path;

use perceiver_tests::program::Sandbox;
use perceiver_train::EpochMetrics;
use serde_json::Value;

/// At this learning rate only weights that are zero change, so a run's metrics are those of its
/// initial weights.
const STANDING_STILL: &str = "--epochs 1 --learning-rate 1e-35 --set training.optimizer.name=sgd --set training.optimizer.weight_decay=0.0";

fn new_sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"))
}

/// Returns a sandbox with a model trained on shapes in `base`.
fn trained(flags: &str) -> Sandbox {
    let sandbox = new_sandbox();
    sandbox.succeed(&format!(
        "train --preset quickstart --config tiny.toml --output base {flags}"
    ));
    sandbox
}

/// Trains from the weights of `base` into `output`, and returns standard error.
fn begin(sandbox: &Sandbox, output: &str, flags: &str) -> String {
    sandbox.write(
        "data.toml",
        "[data]\nlimit_train = 50\nlimit_test = 20\n[training]\nbatch_size = 16\nepochs = 1\n",
    );
    sandbox
        .succeed(&format!(
            "train --preset quickstart --config data.toml --init-from base --output {output} {flags}"
        ))
        .err
}

fn text(sandbox: &Sandbox, file: &str) -> String {
    fs::read_to_string(sandbox.path(file)).unwrap()
}

fn recipe(sandbox: &Sandbox, run: &str) -> toml::Table {
    toml::from_str(&text(sandbox, &format!("{run}/training/recipe.toml"))).unwrap()
}

fn json(sandbox: &Sandbox, file: &str) -> Value {
    serde_json::from_str(&text(sandbox, file)).unwrap()
}

fn metrics(sandbox: &Sandbox, run: &str) -> Vec<EpochMetrics> {
    let text = text(sandbox, &format!("{run}/metrics.jsonl"));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Reads the metadata of a safetensors file.
fn metadata(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap();
    let (length, rest) = bytes.split_first_chunk().unwrap();
    let header: Value =
        serde_json::from_slice(&rest[..u64::from_le_bytes(*length) as usize]).unwrap();
    header["__metadata__"].clone()
}

/// Writes images of three classes to `photos`.
fn photos(sandbox: &Sandbox) {
    for (class, value) in [("dark", 20), ("grey", 120), ("light", 220)] {
        fs::create_dir_all(sandbox.path(format!("photos/{class}"))).unwrap();
        for number in 0..10u8 {
            image::RgbImage::from_pixel(
                20,
                20 + u32::from(number),
                image::Rgb([value + number; 3]),
            )
            .save(sandbox.path(format!("photos/{class}/{number}.png")))
            .unwrap();
        }
    }
}

/// With the same classes and size, the test results equal the checkpoint's to the last digit,
/// although the training images have another mean and variance.
#[test]
fn the_same_architecture_starts_from_the_checkpoint() {
    let sandbox = trained("");
    let stderr = begin(&sandbox, "run", STANDING_STILL);
    assert!(
        stderr.contains("starting from the weights and the normalization of base (sha256 "),
        "{stderr}"
    );
    assert!(
        !stderr.contains("new classification head") && !stderr.contains("resized"),
        "{stderr}"
    );
    assert_eq!(
        text(&sandbox, "run/results.json"),
        text(&sandbox, "base/results.json")
    );

    let [base, run] = ["base", "run"].map(|run| json(&sandbox, &format!("{run}/config.json")));
    assert_eq!(run["model"], base["model"]);
    assert_eq!(run["preprocessing"], base["preprocessing"]);
    assert_ne!(run["data"]["train_sha256"], base["data"]["train_sha256"]);
    let initial = recipe(&sandbox, "run")["training"]["init_from"].clone();
    assert_eq!(initial["checkpoint"].as_str(), Some("base"));
    let sha256 = metadata(&sandbox.path("base/model.safetensors"))["sha256"].clone();
    assert_eq!(initial["sha256"].as_str(), sha256.as_str());
}

#[test]
fn other_classes_initialize_the_head_by_the_seed() {
    let sandbox = trained("");
    photos(&sandbox);
    let stderr = begin(&sandbox, "run", "--dataset folder:photos --epochs 2");
    assert!(
        stderr.contains("new classification head: the 3 classes differ from the checkpoint's"),
        "{stderr}"
    );
    let line = sandbox
        .succeed("predict --checkpoint run --json photos/dark/0.png")
        .out;
    let prediction: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(prediction["classes"].as_array().unwrap().len(), 3);
    // The recipe of a run names the initial weights, and reproduces the run.
    let again = "train --preset quickstart --config run/training/recipe.toml --output again";
    sandbox.succeed(again);
    assert_eq!(
        text(&sandbox, "again/results.json"),
        text(&sandbox, "run/results.json")
    );
}

#[test]
fn images_of_another_size_resize_the_positions() {
    let sandbox = trained("");
    let stderr = begin(&sandbox, "run", "--set model.image_size=32");
    assert!(
        stderr.contains("position encodings resized from 2 x 2 tokens to 4 x 4"),
        "{stderr}"
    );
    let config = json(&sandbox, "run/config.json");
    assert_eq!(config["preprocessing"]["image_size"], 32);
    assert_eq!(config["model"]["projection_dim"], 8);
}

#[test]
fn runs_resume_without_the_initial_checkpoint() {
    let sandbox = trained("");
    let flags = "--set training.schedule.name=constant";
    begin(&sandbox, "whole", &format!("{flags} --epochs 2"));
    begin(&sandbox, "run", &format!("{flags} --epochs 1"));
    fs::remove_dir_all(sandbox.path("base")).unwrap();
    sandbox.succeed("train --resume run --epochs 2");
    assert_eq!(
        text(&sandbox, "run/results.json"),
        text(&sandbox, "whole/results.json")
    );
    let weights = |run: &str| fs::read(sandbox.path(format!("{run}/model.safetensors"))).unwrap();
    assert!(weights("run") == weights("whole"));
}

/// The state is saved before the first step. If it is lost nonetheless, resuming must not start
/// from other weights.
#[test]
fn runs_that_lost_their_first_state_restart() {
    let sandbox = trained("");
    begin(&sandbox, "run", "");
    for file in [
        "training/state.safetensors",
        "training/state.previous.safetensors",
        "model.safetensors",
    ] {
        fs::remove_file(sandbox.path("run").join(file)).unwrap();
    }
    let output = sandbox.run("train --resume run");
    assert_eq!(output.code, Some(1));
    assert!(
        output.err.contains(
            "expected the training state of a run initialized from base, found no such file"
        ),
        "{}",
        output.err
    );
    let remedy = "perceiver train --recipe run/training/recipe.toml --output DIR";
    assert!(output.err.contains(remedy), "{}", output.err);
}

#[test]
fn mismatched_checkpoints_are_rejected_by_name() {
    let sandbox = trained("");
    let refused = |flags: &str, code: i32| {
        let output = sandbox.run(&format!(
            "train --preset quickstart --init-from base --output run {flags}"
        ));
        assert_eq!(output.code, Some(code), "{}", output.err);
        assert!(!sandbox.path("run").exists());
        output.err
    };
    let stderr = refused("--set model.num_heads=4", 1);
    let expected = "--init-from base: model.num_heads is 4, but the initial weights are from a model with 2; omit the field";
    assert!(stderr.contains(expected), "{stderr}");
    let stderr = refused("--set model.positions=fourier", 1);
    assert!(
        stderr.contains("model.positions is \"fourier\""),
        "{stderr}"
    );
    assert!(refused("--resume base", 2).contains("cannot be used with"));
    let output = sandbox.run("train --init-from nowhere --output run");
    assert_eq!(output.code, Some(2));
    assert!(output.err.contains("--init-from nowhere"), "{}", output.err);

    // A recipe reproduces a run with the same initial weights only, unless a flag gives others.
    begin(&sandbox, "first", "");
    fs::remove_dir_all(sandbox.path("base")).unwrap();
    sandbox.succeed("train --preset quickstart --config tiny.toml --seed 1 --output base");
    let again = "train --preset quickstart --config first/training/recipe.toml --output second";
    let output = sandbox.run(again);
    assert_eq!(output.code, Some(1));
    assert!(
        output
            .err
            .contains("checkpoint base has weights with sha256"),
        "{}",
        output.err
    );
    sandbox.succeed(&format!("{again} --init-from base"));
}

/// Pretraining on shapes helps with fewer of them: at once if the head is kept, and after some
/// steps if it is new (coarse groups after fine classes).
#[test]
fn pretraining_lowers_the_loss() {
    let sandbox = new_sandbox();
    let small = "
[model]
image_size = 16
patch_size = 4
latent_dim = 8
projection_dim = 16
num_heads = 2
head_dim = 8
num_transformer_blocks = 1
ffn_units = [16]
classifier_units = [20]
[data]
limit_train = 300
limit_test = 20
[training]
batch_size = 16
";
    sandbox.write("small.toml", small);
    let train = "train --preset quickstart --config small.toml";
    sandbox.succeed(&format!(
        "{train} --output base --limit-train 1500 --epochs 10 --learning-rate 0.005"
    ));
    let losses = |run: &str, flags: &str| {
        sandbox.succeed(&format!(
            "{train} --output {run} --learning-rate 0.003 {flags}"
        ));
        let metrics = metrics(&sandbox, run);
        (metrics[0].loss, metrics[metrics.len() - 1].val_loss)
    };
    let [fine, coarse] = ["--epochs 1", "--epochs 4 --labels coarse"];
    let (scratch, _) = losses("fine-scratch", fine);
    let (tuned, _) = losses("fine-tuned", &format!("{fine} --init-from base"));
    assert!(tuned < scratch - 0.5, "{tuned} {scratch}");
    let (_, scratch) = losses("coarse-scratch", coarse);
    let (_, tuned) = losses("coarse-tuned", &format!("{coarse} --init-from base"));
    assert!(tuned < scratch - 0.1, "{tuned} {scratch}");
}
