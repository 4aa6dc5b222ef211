//! `perceiver runs`: what is listed of runs that are finished, interrupted, nested, or damaged.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use insta::assert_snapshot;
use perceiver_data::{Dataset, Image};
use perceiver_tests::program::{Sandbox, tiny};
use perceiver_train::{
    Callback, EpochMetrics, Event, Preset, Recipe, RunDirectory, TestResults, Trainer, TrainingData,
};
use serde_json::Value;

/// A place with a run of a moment in `runs/made`.
fn trained() -> Sandbox {
    let place = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    place.succeed("train --preset quickstart --config tiny.toml --output runs/made");
    place
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

/// A copy of the run with these validation accuracies, an epoch each of half a minute, and this test accuracy, if it is finished.
fn run(place: &Sandbox, name: &str, validation: &[f64], test: Option<f64>) {
    copy(&place.path("runs/made"), &place.path("runs").join(name));
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
            };
            serde_json::to_string(&metrics).unwrap() + "\n"
        })
        .collect();
    place.write(&file("metrics.jsonl"), lines.concat());
    let results = file("results.json");
    match test {
        None => fs::remove_file(place.path(&results)).unwrap(),
        Some(acc) => {
            let text = fs::read(place.path(&results)).unwrap();
            let found: TestResults = serde_json::from_slice(&text).unwrap();
            let results_now = TestResults {
                acc,
                acc_interval_95: [acc - 0.1, acc + 0.1],
                ..found
            };
            place.write(&results, serde_json::to_string(&results_now).unwrap());
        }
    }
}

/// Runs of every kind.
fn all_kinds() -> Sandbox {
    let place = trained();
    run(&place, "best", &[0.25, 0.5, 0.375], Some(0.625));
    run(&place, "short", &[0.125], Some(0.75));
    run(&place, "sweep/wide-seed0", &[0.25, 0.375], Some(0.5));
    run(&place, "sweep/wide-seed1", &[0.25], None);
    fs::remove_dir_all(place.path("runs/made")).unwrap();
    run_in_ruins(&place, "no-recipe", "training/recipe.toml", None);
    run_in_ruins(&place, "no-weights", "model.safetensors", None);
    run_in_ruins(&place, "other-config", "config.json", Some("{}"));
    run_in_ruins(&place, "torn-metrics", "metrics.jsonl", Some("{\"epoch\":"));
    run_in_ruins(&place, "torn-recipe", "training/recipe.toml", Some("[data"));
    run_in_ruins(&place, "torn-results", "results.json", Some(""));
    // Without a verdict it has to go on, and without a state it cannot.
    run_in_ruins(&place, "torn-state", "results.json", None);
    for state in ["state", "state.previous"] {
        let file = format!("runs/torn-state/training/{state}.safetensors");
        place.write(&file, "half");
    }
    // Begun, and interrupted before anything was saved.
    for file in ["training/recipe.toml", "config.json"] {
        let from = place.path("runs/best").join(file);
        place.write(&format!("runs/begun/{file}"), fs::read(from).unwrap());
    }
    // Neither are runs.
    place.write("runs/sweep/sweep.md", "a table");
    place.write("runs/photos/training/1.png", "a picture");
    place
}

/// A copy of a finished run with another file, or without it.
fn run_in_ruins(place: &Sandbox, name: &str, file: &str, content: Option<&str>) {
    copy(&place.path("runs/short"), &place.path("runs").join(name));
    let path = format!("runs/{name}/{file}");
    match content {
        None => fs::remove_file(place.path(path)).unwrap(),
        Some(content) => place.write(&path, content),
    }
}

#[test]
fn runs_are_listed_whatever_is_wrong_with_one() {
    let place = all_kinds();
    assert_snapshot!("runs", place.succeed("runs").out);
    let below = place.succeed("runs runs/sweep").out;
    assert!(below.contains("runs/sweep/wide-seed0") && !below.contains("runs/best"));
    assert!(below.contains("perceiver train --resume runs/sweep/wide-seed1"));
    let one = place.succeed("runs runs/best").out;
    assert!(
        one.contains("50.00% (epoch 2)") && one.contains("62.50%"),
        "{one}"
    );
}

/// The names of the runs in an order.
fn order(place: &Sandbox, arguments: &str) -> Vec<String> {
    let json = place.succeed(&format!("runs --json {arguments}")).out;
    let runs: Vec<Value> = serde_json::from_str(&json).unwrap();
    let names = runs.iter().map(|run| run["run"].as_str().unwrap());
    names.map(ToString::to_string).collect()
}

#[test]
fn runs_come_in_the_order_that_is_asked_for() {
    let place = all_kinds();
    let names = order(&place, "");
    assert!(names.is_sorted() && names.len() == 12, "{names:?}");
    let start = |by: &str, count| order(&place, &format!("--sort {by}"))[..count].to_vec();
    assert_eq!(start("validation", 1), ["runs/best"]);
    assert_eq!(start("epochs", 2), ["runs/best", "runs/sweep/wide-seed0"]);
    assert_eq!(start("time", 2), ["runs/best", "runs/sweep/wide-seed0"]);
    let by_test = order(&place, "--sort test");
    let at = |name: &str| by_test.iter().position(|found| found == name).unwrap();
    assert!(at("runs/short") < at("runs/best"));
    assert!(at("runs/best") < at("runs/sweep/wide-seed0"));
    assert!(at("runs/sweep/wide-seed0") < at("runs/sweep/wide-seed1"));
}

#[test]
fn json_says_how_every_run_stands() {
    let place = all_kinds();
    let json = place.succeed("runs --json").out;
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

/// What is said to be resumable is.
#[test]
fn an_unfinished_run_goes_on_by_the_command_that_is_named() {
    let place = trained();
    run(&place, "left", &[0.25], None);
    let said = place.succeed("runs").out;
    let command = said
        .lines()
        .find_map(|line| line.strip_prefix("resume with: perceiver "));
    place.succeed(command.unwrap());
    assert!(place.path("runs/left/results.json").exists());
    assert!(!place.succeed("runs").out.contains("resume with"));
}

/// Blobs of two colours, which no file has.
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

/// Stops in the middle, if it has to.
struct Interrupts<'a>(Option<&'a AtomicBool>);

impl Callback for Interrupts<'_> {
    fn notice(&mut self, event: &Event<'_>) -> perceiver_train::Result<()> {
        if let (Event::Step { .. }, Some(stop)) = (event, self.0) {
            stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Trains on data in memory, by the crates, from a recipe that has another data set's name in it.
fn trained_in_memory(place: &Sandbox, name: &str, to_the_end: bool) {
    let layers = [
        ("quickstart", Preset::Quickstart.table()),
        ("tiny", toml::from_str(&tiny()).unwrap()),
    ];
    let recipe = Recipe::from_layers(&layers).unwrap();
    let data = TrainingData::new(blobs(), &recipe).unwrap();
    let run = RunDirectory::unused(place.path("runs").join(name)).unwrap();
    let stop = AtomicBool::new(false);
    let mut observer = Interrupts((!to_the_end).then_some(&stop));
    let mut trainer = Trainer::start(recipe, data, run, Device::Cpu).unwrap();
    trainer.fit(&mut observer, &stop).unwrap();
}

/// The data have a name of their own, and a run that no test follows is finished when it has learned all that it was to.
#[test]
fn a_run_on_data_in_memory_says_so_and_is_finished_without_a_test() {
    let place = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    trained_in_memory(&place, "done", true);
    trained_in_memory(&place, "left", false);
    let file = |name: &str| fs::read_to_string(place.path("runs/done").join(name)).unwrap();
    assert!(file("training/recipe.toml").contains("dataset = \"memory:two blobs\""));
    let config: Value = serde_json::from_str(&file("config.json")).unwrap();
    assert_eq!(config["data"]["dataset"], "memory:two blobs");
    assert_eq!(config["data"]["train_sha256"], blobs().sha256());

    let json = place.succeed("runs --json").out;
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
    let said = place.succeed("runs").out;
    let way = "resume runs/left in the program that started it, which has its data";
    assert!(said.contains(way) && !said.contains("--resume"), "{said}");

    // The program has not got the data, and says so.
    for command in [
        "train --resume runs/left",
        "train --resume runs/done --epochs 5",
        "evaluate --checkpoint runs/done",
    ] {
        let said = place.run(command);
        assert_eq!(said.code, Some(1), "{command}");
        let expected = "expected a data set that can be read; choose one with --dataset, found memory:two blobs";
        assert!(said.err.contains(expected), "{command}: {}", said.err);
    }
    // Who has, goes on.
    let run = RunDirectory::open(place.path("runs/left")).unwrap();
    let recipe = Recipe::read(&run.recipe()).unwrap();
    let data = TrainingData::new(blobs(), &recipe).unwrap();
    let mut trainer = Trainer::resume(recipe, data, run, Device::Cpu).unwrap();
    let stop = AtomicBool::new(false);
    trainer.fit(&mut Interrupts(None), &stop).unwrap();
    drop(trainer);
    assert!(!place.succeed("runs").out.contains("unfinished"));
}

#[test]
fn a_directory_without_runs_says_so() {
    let place = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    let said = place.run("runs");
    assert_eq!(said.code, Some(2));
    assert!(
        said.err.contains("runs: expected a directory with runs"),
        "{}",
        said.err
    );
    fs::create_dir(place.path("runs")).unwrap();
    let said = place.succeed("runs");
    assert!(said.err.contains("no runs in runs"), "{}", said.err);
    assert_eq!(place.succeed("runs --json").out, "[]\n");
}
