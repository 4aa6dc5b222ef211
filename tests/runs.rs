//! `perceiver runs`: the listing of finished, interrupted, nested and damaged runs.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use insta::assert_snapshot;
use perceiver_data::{Dataset, Image};
use perceiver_tests::program::{Sandbox, tiny};
use perceiver_train::{
    Callback, CallbackResult, Control, EpochMetrics, Event, Preset, Recipe, RunDirectory,
    TestResults, Trainer, TrainingData,
};
use serde_json::Value;

/// Returns a sandbox with a short run in `runs/made`.
fn trained() -> Sandbox {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    sandbox.succeed("train --preset quickstart --config tiny.toml --output runs/made");
    sandbox
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
}

/// Copies the run, with these validation accuracies, epochs of half a minute, and this test
/// accuracy if it is finished.
fn run(sandbox: &Sandbox, name: &str, validation: &[f64], test: Option<f64>) {
    copy(&sandbox.path("runs/made"), &sandbox.path("runs").join(name));
    let file = |name_in: &str| format!("runs/{name}/{name_in}");
    let lines: Vec<String> = (1..)
        .zip(validation)
        .map(|(epoch, val_acc)| {
            let metrics = EpochMetrics {
                epoch,
                loss: 1.0,
                acc: 0.5,
                top5_acc: 0.75,
                val_loss: 1.5,
                val_acc: *val_acc,
                val_top5_acc: 0.75,
                learning_rate: 1e-3,
                seconds: 30.0,
                images_per_second: 100.0,
                diagnosis: None,
                warnings: Vec::new(),
                custom: std::collections::BTreeMap::new(),
            };
            serde_json::to_string(&metrics).unwrap() + "\n"
        })
        .collect();
    sandbox.write(&file("metrics.jsonl"), lines.concat());
    let results = file("results.json");
    match test {
        None => fs::remove_file(sandbox.path(&results)).unwrap(),
        Some(acc) => {
            let text = fs::read(sandbox.path(&results)).unwrap();
            let previous: TestResults = serde_json::from_slice(&text).unwrap();
            let results_now = TestResults {
                acc,
                acc_interval_95: [acc - 0.1, acc + 0.1],
                ..previous
            };
            sandbox.write(&results, serde_json::to_string(&results_now).unwrap());
        }
    }
}

/// Returns a sandbox with runs of every kind.
fn all_kinds() -> Sandbox {
    let sandbox = trained();
    run(&sandbox, "best", &[0.25, 0.5, 0.375], Some(0.625));
    run(&sandbox, "short", &[0.125], Some(0.75));
    run(&sandbox, "sweep/wide-seed0", &[0.25, 0.375], Some(0.5));
    run(&sandbox, "sweep/wide-seed1", &[0.25], None);
    fs::remove_dir_all(sandbox.path("runs/made")).unwrap();
    run_in_ruins(&sandbox, "no-recipe", "training/recipe.toml", None);
    run_in_ruins(&sandbox, "no-weights", "model.safetensors", None);
    run_in_ruins(&sandbox, "other-config", "config.json", Some("{}"));
    run_in_ruins(
        &sandbox,
        "torn-metrics",
        "metrics.jsonl",
        Some("{\"epoch\":"),
    );
    run_in_ruins(
        &sandbox,
        "torn-recipe",
        "training/recipe.toml",
        Some("[data"),
    );
    run_in_ruins(&sandbox, "torn-results", "results.json", Some(""));
    // Without results the run has to be resumed, which is impossible without a state.
    run_in_ruins(&sandbox, "torn-state", "results.json", None);
    for state in ["state", "state.previous"] {
        let file = format!("runs/torn-state/training/{state}.safetensors");
        sandbox.write(&file, "half");
    }
    // Interrupted before anything was saved.
    for file in ["training/recipe.toml", "config.json"] {
        let from = sandbox.path("runs/best").join(file);
        sandbox.write(&format!("runs/begun/{file}"), fs::read(from).unwrap());
    }
    // These are not runs.
    sandbox.write("runs/sweep/sweep.md", "a table");
    sandbox.write("runs/photos/training/1.png", "a picture");
    sandbox
}

/// Copies a finished run, and replaces or removes one of its files.
fn run_in_ruins(sandbox: &Sandbox, name: &str, file: &str, content: Option<&str>) {
    copy(
        &sandbox.path("runs/short"),
        &sandbox.path("runs").join(name),
    );
    let path = format!("runs/{name}/{file}");
    match content {
        None => fs::remove_file(sandbox.path(path)).unwrap(),
        Some(content) => sandbox.write(&path, content),
    }
}

#[test]
fn runs_are_listed_even_if_one_is_damaged() {
    let sandbox = all_kinds();
    assert_snapshot!("runs", sandbox.succeed("runs").out);
    let below = sandbox.succeed("runs runs/sweep").out;
    assert!(below.contains("runs/sweep/wide-seed0") && !below.contains("runs/best"));
    assert!(below.contains("perceiver train --resume runs/sweep/wide-seed1"));
    let one = sandbox.succeed("runs runs/best").out;
    assert!(
        one.contains("50.00% (epoch 2)") && one.contains("62.50%"),
        "{one}"
    );
}

/// Returns the names of the runs in the listed order.
fn order(sandbox: &Sandbox, arguments: &str) -> Vec<String> {
    let json = sandbox.succeed(&format!("runs --json {arguments}")).out;
    let runs: Vec<Value> = serde_json::from_str(&json).unwrap();
    let names = runs.iter().map(|run| run["run"].as_str().unwrap());
    names.map(ToString::to_string).collect()
}

#[test]
fn runs_are_sorted_as_requested() {
    let sandbox = all_kinds();
    let names = order(&sandbox, "");
    assert!(names.is_sorted() && names.len() == 12, "{names:?}");
    let start = |by: &str, count| order(&sandbox, &format!("--sort {by}"))[..count].to_vec();
    assert_eq!(start("validation", 1), ["runs/best"]);
    assert_eq!(start("epochs", 2), ["runs/best", "runs/sweep/wide-seed0"]);
    assert_eq!(start("time", 2), ["runs/best", "runs/sweep/wide-seed0"]);
    let by_test = order(&sandbox, "--sort test");
    let at = |name: &str| by_test.iter().position(|entry| entry == name).unwrap();
    assert!(at("runs/short") < at("runs/best"));
    assert!(at("runs/best") < at("runs/sweep/wide-seed0"));
    assert!(at("runs/sweep/wide-seed0") < at("runs/sweep/wide-seed1"));
}

#[test]
fn json_has_the_status_of_every_run() {
    let sandbox = all_kinds();
    let json = sandbox.succeed("runs --json").out;
    let runs: Vec<Value> = serde_json::from_str(&json).unwrap();
    let named = |name: &str| runs.iter().find(|run| run["run"] == name).unwrap();
    let best = named("runs/best");
    assert_eq!(best["state"], "finished");
    assert_eq!(best["best"]["val_acc"], 0.5);
    assert_eq!(best["test"]["acc"], 0.625);
    assert_eq!(best["seconds"], 90.0);
    let unfinished = named("runs/sweep/wide-seed1");
    assert_eq!(unfinished["state"], "unfinished");
    assert_eq!(
        unfinished["resume"],
        "perceiver train --resume runs/sweep/wide-seed1"
    );
    let damaged = named("runs/torn-results");
    assert_eq!(damaged["state"], "damaged");
    assert!(
        damaged["finding"]
            .as_str()
            .unwrap()
            .contains("results.json")
    );
}

#[test]
fn the_printed_command_resumes_an_unfinished_run() {
    let sandbox = trained();
    run(&sandbox, "left", &[0.25], None);
    let stdout = sandbox.succeed("runs").out;
    let command = stdout
        .lines()
        .find_map(|line| line.strip_prefix("resume with: perceiver "));
    sandbox.succeed(command.unwrap());
    assert!(sandbox.path("runs/left/results.json").exists());
    assert!(!sandbox.succeed("runs").out.contains("resume with"));
}

/// Returns images of two colours, which exist in memory only.
fn blobs() -> Dataset {
    let image = |index: u8| {
        let colour = |channel: u8| vec![100 * (index % 2) + index + channel; 64];
        Image::new(8, 8, [0, 1, 2].map(colour).concat()).unwrap()
    };
    let images = (0..40).map(image).collect();
    let labels = (0..40).map(|index| index % 2).collect();
    let classes = ["dark", "light"].map(String::from).to_vec();
    Dataset::new("two blobs", images, labels, classes).unwrap()
}

/// Interrupts the run after the first step, if it holds a flag.
struct Interrupts<'a>(Option<&'a AtomicBool>);

impl Callback for Interrupts<'_> {
    fn on_event(&mut self, event: &Event<'_>) -> CallbackResult {
        if let (Event::Step { .. }, Some(stop)) = (event, self.0) {
            stop.store(true, Ordering::Relaxed);
        }
        Ok(Control::Continue)
    }
}

/// Trains on data in memory with the library, from a recipe that names another data set.
fn trained_in_memory(sandbox: &Sandbox, name: &str, to_the_end: bool) {
    let layers = [("quickstart", Preset::Quickstart.toml()), ("tiny", &tiny())];
    let recipe = Recipe::from_layers(&layers).unwrap();
    let data = TrainingData::new(blobs(), &recipe).unwrap();
    let run = RunDirectory::unused(sandbox.path("runs").join(name)).unwrap();
    let stop = AtomicBool::new(false);
    let mut observer = Interrupts((!to_the_end).then_some(&stop));
    let mut trainer = Trainer::start(recipe, data, run, Device::Cpu).unwrap();
    trainer.fit_until(&mut observer, &stop).unwrap();
}

/// Data in memory have their own name, and a run without a test is finished after its training.
#[test]
fn runs_on_data_in_memory_say_so_and_finish_without_a_test() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    trained_in_memory(&sandbox, "done", true);
    trained_in_memory(&sandbox, "left", false);
    let file = |name: &str| fs::read_to_string(sandbox.path("runs/done").join(name)).unwrap();
    assert!(file("training/recipe.toml").contains("dataset = \"memory:two blobs\""));
    let config: Value = serde_json::from_str(&file("config.json")).unwrap();
    assert_eq!(config["data"]["dataset"], "memory:two blobs");
    assert_eq!(config["data"]["train_sha256"], blobs().sha256());

    let json = sandbox.succeed("runs --json").out;
    let runs: Vec<Value> = serde_json::from_str(&json).unwrap();
    let standing = runs.iter().map(|run| (&run["state"], &run["dataset"]));
    let memory = &Value::from("memory:two blobs");
    assert_eq!(
        standing.collect::<Vec<_>>(),
        [
            (&Value::from("finished"), memory),
            (&Value::from("unfinished"), memory)
        ]
    );
    let stdout = sandbox.succeed("runs").out;
    let way = "resume runs/left in the program that started it, which has its data";
    assert!(
        stdout.contains(way) && !stdout.contains("--resume"),
        "{stdout}"
    );

    // The program cannot load these data, and reports it.
    for command in [
        "train --resume runs/left",
        "train --resume runs/done --epochs 5",
        "evaluate --checkpoint runs/done",
    ] {
        let output = sandbox.run(command);
        assert_eq!(output.code, Some(1), "{command}");
        let expected = "expected a data set that can be read; choose one with --dataset, found memory:two blobs";
        assert!(output.err.contains(expected), "{command}: {}", output.err);
    }
    // A program that has the data can resume the run.
    let run = RunDirectory::open(sandbox.path("runs/left")).unwrap();
    let recipe = Recipe::read(run.recipe()).unwrap();
    let data = TrainingData::new(blobs(), &recipe).unwrap();
    let mut trainer = Trainer::resume(recipe, data, run, Device::Cpu).unwrap();
    let stop = AtomicBool::new(false);
    trainer.fit_until(&mut Interrupts(None), &stop).unwrap();
    drop(trainer);
    assert!(!sandbox.succeed("runs").out.contains("unfinished"));
}

#[test]
fn a_directory_without_runs_says_so() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    let output = sandbox.run("runs");
    assert_eq!(output.code, Some(2));
    assert!(
        output.err.contains("runs: expected a directory with runs"),
        "{}",
        output.err
    );
    fs::create_dir(sandbox.path("runs")).unwrap();
    let output = sandbox.succeed("runs");
    assert!(output.err.contains("no runs in runs"), "{}", output.err);
    assert_eq!(sandbox.succeed("runs --json").out, "[]\n");
}
