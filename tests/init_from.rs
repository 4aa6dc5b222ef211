//! Runs that begin with the weights of a checkpoint: the same model, other classes, images of another size.

use std::fs;
use std::path::Path;

use perceiver_tests::program::Sandbox;
use perceiver_train::EpochMetrics;
use serde_json::Value;

/// With this learning rate no weight changes that is not zero: what a run measures, it measures of the weights it began with.
const STANDING_STILL: &str = "--epochs 1 --learning-rate 1e-35 --set training.optimizer.name=sgd --set training.optimizer.weight_decay=0.0";

fn workplace() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"))
}

/// A workplace with a model trained on shapes in `base`.
fn trained(flags: &str) -> Sandbox {
    let place = workplace();
    place.succeed(&format!(
        "train --preset quickstart --config tiny.toml --output base {flags}"
    ));
    place
}

/// Begins with `base`, in the directory `output`. Returns what was said.
fn begin(place: &Sandbox, output: &str, flags: &str) -> String {
    place.write(
        "data.toml",
        "[data]\nlimit_train = 50\nlimit_test = 20\n[training]\nbatch_size = 16\nepochs = 1\n",
    );
    place
        .succeed(&format!(
            "train --preset quickstart --config data.toml --init-from base --output {output} {flags}"
        ))
        .err
}

fn text(place: &Sandbox, file: &str) -> String {
    fs::read_to_string(place.path(file)).unwrap()
}

fn recipe(place: &Sandbox, run: &str) -> toml::Table {
    toml::from_str(&text(place, &format!("{run}/training/recipe.toml"))).unwrap()
}

fn json(place: &Sandbox, file: &str) -> Value {
    serde_json::from_str(&text(place, file)).unwrap()
}

fn metrics(place: &Sandbox, run: &str) -> Vec<EpochMetrics> {
    let text = text(place, &format!("{run}/metrics.jsonl"));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The metadata of a safetensors file.
fn metadata(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap();
    let (length, rest) = bytes.split_first_chunk().unwrap();
    let header: Value =
        serde_json::from_slice(&rest[..u64::from_le_bytes(*length) as usize]).unwrap();
    header["__metadata__"].clone()
}

/// Three classes of pictures in `photos`.
fn photos(place: &Sandbox) {
    for (class, value) in [("dark", 20), ("grey", 120), ("light", 220)] {
        fs::create_dir_all(place.path(format!("photos/{class}"))).unwrap();
        for number in 0..10u8 {
            image::RgbImage::from_pixel(
                20,
                20 + u32::from(number),
                image::Rgb([value + number; 3]),
            )
            .save(place.path(format!("photos/{class}/{number}.png")))
            .unwrap();
        }
    }
}

/// The same classes and size: what the run begins with says of the test pictures what the checkpoint says, to the last digit, though
/// its own training pictures have another mean and variance.
#[test]
fn the_same_model_begins_where_the_checkpoint_is() {
    let place = trained("");
    let said = begin(&place, "run", STANDING_STILL);
    assert!(
        said.contains("starting from the weights and the normalization of base (sha256 "),
        "{said}"
    );
    assert!(
        !said.contains("new classification head") && !said.contains("resized"),
        "{said}"
    );
    assert_eq!(
        text(&place, "run/results.json"),
        text(&place, "base/results.json")
    );

    let [base, run] = ["base", "run"].map(|run| json(&place, &format!("{run}/config.json")));
    assert_eq!(run["model"], base["model"]);
    assert_eq!(run["preprocessing"], base["preprocessing"]);
    assert_ne!(run["data"]["train_sha256"], base["data"]["train_sha256"]);
    let initial = recipe(&place, "run")["training"]["init_from"].clone();
    assert_eq!(initial["checkpoint"].as_str(), Some("base"));
    let sha256 = metadata(&place.path("base/model.safetensors"))["sha256"].clone();
    assert_eq!(initial["sha256"].as_str(), sha256.as_str());
}

#[test]
fn other_classes_get_a_fresh_head_by_the_seed() {
    let place = trained("");
    photos(&place);
    let said = begin(&place, "run", "--dataset folder:photos --epochs 2");
    assert!(
        said.contains("new classification head: the 3 classes differ from the checkpoint's"),
        "{said}"
    );
    let line = place
        .succeed("predict --checkpoint run --json photos/dark/0.png")
        .out;
    let prediction: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(prediction["classes"].as_array().unwrap().len(), 3);
    // The run's recipe says what it began with, and repeats it.
    let again = "train --preset quickstart --config run/training/recipe.toml --output again";
    place.succeed(again);
    assert_eq!(
        text(&place, "again/results.json"),
        text(&place, "run/results.json")
    );
}

#[test]
fn images_of_another_size_resize_the_positions() {
    let place = trained("");
    let said = begin(&place, "run", "--set model.image_size=32");
    assert!(
        said.contains("position encodings resized from 2 x 2 tokens to 4 x 4"),
        "{said}"
    );
    let config = json(&place, "run/config.json");
    assert_eq!(config["preprocessing"]["image_size"], 32);
    assert_eq!(config["model"]["projection_dim"], 8);
}

#[test]
fn a_run_goes_on_without_its_checkpoint() {
    let place = trained("");
    let flags = "--set training.schedule.name=constant";
    begin(&place, "whole", &format!("{flags} --epochs 2"));
    begin(&place, "run", &format!("{flags} --epochs 1"));
    fs::remove_dir_all(place.path("base")).unwrap();
    place.succeed("train --resume run --epochs 2");
    assert_eq!(
        text(&place, "run/results.json"),
        text(&place, "whole/results.json")
    );
    let weights = |run: &str| fs::read(place.path(format!("{run}/model.safetensors"))).unwrap();
    assert!(weights("run") == weights("whole"));
}

/// The state is saved before the first step; where it is lost all the same, the run does not go on from other weights.
#[test]
fn a_run_that_lost_its_first_state_is_begun_anew() {
    let place = trained("");
    begin(&place, "run", "");
    for file in [
        "training/state.safetensors",
        "training/state.previous.safetensors",
        "model.safetensors",
    ] {
        fs::remove_file(place.path("run").join(file)).unwrap();
    }
    let said = place.run("train --resume run");
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains(
            "expected the training state of a run initialized from base, found no such file"
        ),
        "{}",
        said.err
    );
    let remedy = "perceiver train --recipe run/training/recipe.toml --output DIR";
    assert!(said.err.contains(remedy), "{}", said.err);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let place = trained("");
    let refused = |flags: &str, code: i32| {
        let said = place.run(&format!(
            "train --preset quickstart --init-from base --output run {flags}"
        ));
        assert_eq!(said.code, Some(code), "{}", said.err);
        assert!(!place.path("run").exists());
        said.err
    };
    let said = refused("--set model.num_heads=4", 1);
    let expected = "--init-from base: model.num_heads is 4, but the initial weights are from a model with 2; omit the field";
    assert!(said.contains(expected), "{said}");
    let said = refused("--set model.positions=fourier", 1);
    assert!(said.contains("model.positions is \"fourier\""), "{said}");
    assert!(refused("--resume base", 2).contains("cannot be used with"));
    let said = place.run("train --init-from nowhere --output run");
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("--init-from nowhere"), "{}", said.err);

    // A recipe repeats a run with its weights and no others, unless told to.
    begin(&place, "first", "");
    fs::remove_dir_all(place.path("base")).unwrap();
    place.succeed("train --preset quickstart --config tiny.toml --seed 1 --output base");
    let again = "train --preset quickstart --config first/training/recipe.toml --output second";
    let said = place.run(again);
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("checkpoint base has weights with sha256"),
        "{}",
        said.err
    );
    place.succeed(&format!("{again} --init-from base"));
}

/// What was learned of shapes helps with fewer of them, at once where the head is kept, and after some steps where it is fresh:
/// coarse groups after fine classes.
#[test]
fn what_was_learned_before_helps() {
    let place = workplace();
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
    place.write("small.toml", small);
    let train = "train --preset quickstart --config small.toml";
    place.succeed(&format!(
        "{train} --output base --limit-train 1500 --epochs 10 --learning-rate 0.005"
    ));
    let losses = |run: &str, flags: &str| {
        place.succeed(&format!(
            "{train} --output {run} --learning-rate 0.003 {flags}"
        ));
        let metrics = metrics(&place, run);
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
