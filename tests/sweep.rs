//! `perceiver train --sweep`: ordinary runs, a table of what they came to, and a sweep that is left ends as one that is not.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use perceiver_tests::program::{Sandbox, names_in};
use serde_json::Value;

const SWEEP: &str = "
seeds = [0, 3]

[[variant]]
name = 'plain'

[[variant]]
name = 'fast'
training.learning_rate = 0.02
data.augmentation.zoom = 0.0
";

const RUNS: [&str; 4] = ["plain-seed0", "fast-seed0", "plain-seed3", "fast-seed3"];

const TRAIN: &str =
    "train --preset quickstart --config tiny.toml --epochs 2 --sweep sweep.toml --output all";

/// A workplace with `sweep.toml`.
fn workplace(sweep: &str) -> Sandbox {
    let place = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    place.write("sweep.toml", sweep);
    place
}

fn read(place: &Sandbox, file: &str) -> String {
    fs::read_to_string(place.path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn json(place: &Sandbox, file: &str) -> Value {
    serde_json::from_str(&read(place, file)).unwrap()
}

/// The error of a command that must fail.
fn failure(place: &Sandbox, arguments: &str) -> String {
    let said = place.run(arguments);
    assert_ne!(said.code, Some(0), "{arguments}");
    assert!(!said.err.contains("panicked"), "{}", said.err);
    said.err
}

#[test]
fn the_table_is_what_the_runs_results_say() {
    let place = workplace(SWEEP);
    let said = place.succeed(TRAIN);
    let mut expected = RUNS.map(String::from).to_vec();
    expected.extend(["sweep.json".to_string(), "sweep.md".to_string()]);
    expected.sort();
    assert_eq!(names_in(&place.path("all")), expected);
    // Each forecast is of all that is left; the last run's own says it all.
    let forecasts = said
        .err
        .lines()
        .filter(|line| line.contains("estimate of the sweep"));
    let left = forecasts.map(|line| line.split("sweep: ").nth(1).unwrap()[..6].to_string());
    assert_eq!(left.collect::<Vec<_>>(), ["4 runs", "3 runs", "2 runs"]);
    assert_eq!(
        said.err.matches("reading shapes").count(),
        1,
        "{}",
        said.err
    );

    let table = json(&place, "all/sweep.json");
    let variants = table["variants"].as_array().unwrap();
    assert_eq!(variants.len(), 2);
    let mut means = Vec::new();
    for variant in variants {
        let name = variant["name"].as_str().unwrap();
        let mut sums = [0.0; 3];
        for (run, seed) in variant["runs"].as_array().unwrap().iter().zip([0, 3]) {
            let directory = format!("all/{name}-seed{seed}");
            let results = json(&place, &format!("{directory}/results.json"));
            assert_eq!(run["seed"], seed);
            assert_eq!(run["test_acc"], results["acc"]);
            assert_eq!(run["test_top5_acc"], results["top5_acc"]);
            assert_eq!(run["test_loss"], results["loss"]);
            let metrics = read(&place, &format!("{directory}/metrics.jsonl"));
            let epochs: Vec<Value> = metrics
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            let loss = |epoch: &&Value| epoch["val_loss"].as_f64().unwrap();
            let kept = epochs
                .iter()
                .min_by(|a, b| loss(a).total_cmp(&loss(b)))
                .unwrap();
            assert_eq!(run["val_acc"], kept["val_acc"]);
            assert_eq!(run["kept_epoch"], kept["epoch"]);
            let figures = ["val_acc", "test_acc", "test_loss"];
            for (sum, figure) in sums.iter_mut().zip(figures) {
                *sum += run[figure].as_f64().unwrap();
            }
        }
        for (sum, figure) in sums.iter().zip(["val_acc", "test_acc", "test_loss"]) {
            let mean = variant[figure]["mean"].as_f64().unwrap();
            assert!((mean - sum / 2.0).abs() < 1e-12, "{figure}");
            let shown = if figure == "test_loss" {
                format!("{mean:.4} ±")
            } else {
                format!("{:.2}% ±", 100.0 * mean)
            };
            assert!(said.out.contains(&shown), "{shown} in {}", said.out);
            assert!(read(&place, "all/sweep.md").contains(&shown));
        }
        means.push(variant["val_acc"]["mean"].as_f64().unwrap());
    }
    let difference = variants[1]["difference"].as_f64().unwrap();
    assert!((difference - (means[1] - means[0])).abs() < 1e-12);
    assert_eq!(variants[1]["best"], means[1] > means[0]);
}

#[test]
fn a_member_is_an_ordinary_run() {
    let place = workplace("seeds = [3]\n[[variant]]\nname = 'fast'\ntraining.learning_rate = 0.02");
    place.succeed(TRAIN);
    place.succeed(
        "train --preset quickstart --config tiny.toml --epochs 2 --learning-rate 0.02 --seed 3 --output alone",
    );
    for file in ["results.json", "config.json", "training/recipe.toml"] {
        let of_sweep = read(&place, &format!("all/fast-seed3/{file}"));
        assert_eq!(of_sweep, read(&place, &format!("alone/{file}")), "{file}");
    }
    place.succeed("evaluate --checkpoint all/fast-seed3");
}

/// The results of all runs.
fn results(place: &Sandbox) -> [String; 4] {
    RUNS.map(|run| read(place, &format!("all/{run}/results.json")))
}

#[test]
fn a_sweep_that_is_killed_goes_on() {
    let undisturbed = workplace(SWEEP);
    undisturbed.succeed(TRAIN);

    let place = workplace(SWEEP);
    for run in ["plain-seed0", "fast-seed0", "fast-seed3"] {
        let mut child = place.command(TRAIN).spawn().unwrap();
        let begun = place.path(format!("all/{run}/config.json"));
        while !begun.exists() && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let said = place.succeed(TRAIN);
    assert!(
        said.err.contains("plain with seed 0: already finished"),
        "{}",
        said.err
    );
    assert_eq!(results(&place), results(&undisturbed));

    // Once more, there is nothing left to do but the table.
    let weights = fs::read(place.path("all/fast-seed3/model.safetensors")).unwrap();
    let again = place.succeed(TRAIN);
    assert_eq!(again.out, said.out);
    assert_eq!(again.err.matches("already finished").count(), 4);
    assert!(weights == fs::read(place.path("all/fast-seed3/model.safetensors")).unwrap());
}

#[cfg(unix)]
#[test]
fn an_interrupted_sweep_says_how_to_go_on() {
    let place = workplace(SWEEP);
    let long = "--epochs 300 --set training.early_stopping.patience=300";
    let train = TRAIN.replace("--epochs 2", long);
    let child = place.command(&train).spawn().unwrap();
    while !place.path("all/plain-seed0/config.json").exists() {
        sleep(Duration::from_millis(1));
    }
    let signal = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(signal.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("resume with the same command and --output all"),
        "{said}"
    );
    assert_eq!(names_in(&place.path("all")), ["plain-seed0"]);
    assert!(
        place
            .path("all/plain-seed0/training/state.safetensors")
            .exists()
    );
}

#[test]
fn a_run_of_another_recipe_is_refused_by_field_and_left_alone() {
    let place = workplace("[[variant]]\nname = 'plain'");
    place.succeed(TRAIN);
    let before = read(&place, "all/plain-seed0/results.json");
    let message = failure(&place, &TRAIN.replace("--epochs 2", "--epochs 3"));
    assert!(
        message.contains(
            "plain-seed0 holds a run of another recipe: training.epochs: expected 3, found 2"
        ),
        "{message}"
    );
    assert_eq!(read(&place, "all/plain-seed0/results.json"), before);
}

#[test]
fn everything_is_checked_before_the_first_run() {
    for (sweep, finding) in [
        (
            "seeds = [0]",
            "sweep.toml: expected at least one [[variant]]",
        ),
        (
            "[[variant]]\nname = 'a'\n[[variant]]\nname = 'b'\nmodel.latent_dimm = 3",
            "of --sweep, variant b: unknown field model.latent_dimm; did you mean model.latent_dim?",
        ),
        (
            "[[variant]]\nname = 'a'\n[[variant]]\nname = 'b'\ntraining.epochs = 0",
            "of --sweep, variant b: training.epochs: expected at least 1",
        ),
        (
            "[[variant]]\nname = 'a'\n[[variant]]\nname = 'b'\ndata.dataset = 'folder:nowhere'",
            "nowhere",
        ),
        (
            "[[variant]]\nname = 'a'\n[[variant]]\nname = 'b'\ntraining.device = 'metal'",
            "device metal",
        ),
        (
            "[[variant]]\nname = 'a/b'",
            "variant \"a/b\": expected a name of letters",
        ),
        ("[[variant]", "--sweep sweep.toml: invalid TOML"),
    ] {
        let place = workplace(sweep);
        let message = failure(&place, TRAIN);
        assert!(message.contains(finding), "{finding}: {message}");
        assert!(!place.path("all").exists(), "{finding}");
    }
    let place = workplace(SWEEP);
    for flags in ["--resume all", "--seed 3"] {
        let message = failure(&place, &format!("train --sweep sweep.toml {flags}"));
        assert!(message.contains("cannot be used with"), "{message}");
    }
    assert!(!place.path("runs").exists());
}

#[test]
fn a_recipe_that_diverges_does_not_end_the_comparison() {
    let place = workplace(
        "[[variant]]\nname = 'wild'\ntraining.learning_rate = 1e30\n[[variant]]\nname = 'plain'",
    );
    let said = place.run(TRAIN);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(
        said.err.contains("without test results, as the loss or a gradient became NaN or infinite: wild with seed 0"),
        "{}",
        said.err
    );
    let table = json(&place, "all/sweep.json");
    assert_eq!(table["variants"][0]["runs"], serde_json::json!([]));
    assert_eq!(table["variants"][1]["best"], true);
}
