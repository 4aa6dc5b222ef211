//! `perceiver train --sweep`: ordinary runs, a table of their results, and interrupted sweeps.

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

/// Returns a sandbox with `sweep.toml`.
fn new_sandbox(sweep: &str) -> Sandbox {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    sandbox.write("sweep.toml", sweep);
    sandbox
}

fn read(sandbox: &Sandbox, file: &str) -> String {
    fs::read_to_string(sandbox.path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn json(sandbox: &Sandbox, file: &str) -> Value {
    serde_json::from_str(&read(sandbox, file)).unwrap()
}

/// Runs a command that must fail, and returns its error message.
fn failure(sandbox: &Sandbox, arguments: &str) -> String {
    let output = sandbox.run(arguments);
    assert_ne!(output.code, Some(0), "{arguments}");
    assert!(!output.err.contains("panicked"), "{}", output.err);
    output.err
}

#[test]
fn the_table_equals_the_results_of_the_runs() {
    let sandbox = new_sandbox(SWEEP);
    let output = sandbox.succeed(TRAIN);
    let mut expected = RUNS.map(String::from).to_vec();
    expected.extend(["sweep.html", "sweep.json", "sweep.md"].map(String::from));
    expected.sort();
    assert_eq!(names_in(&sandbox.path("all")), expected);
    let page = read(&sandbox, "all/sweep.html");
    assert!(
        page.contains("id=\"ranking\"") && page.contains("<polygon"),
        "bands over the seeds"
    );
    // Each forecast covers all remaining runs. The last run has only its own.
    let forecasts = output
        .err
        .lines()
        .filter(|line| line.contains("estimate of the sweep"));
    let left = forecasts.map(|line| line.split("sweep: ").nth(1).unwrap()[..6].to_string());
    assert_eq!(left.collect::<Vec<_>>(), ["4 runs", "3 runs", "2 runs"]);
    assert_eq!(
        output.err.matches("reading shapes").count(),
        1,
        "{}",
        output.err
    );

    let table = json(&sandbox, "all/sweep.json");
    let variants = table["variants"].as_array().unwrap();
    assert_eq!(variants.len(), 2);
    let mut means = Vec::new();
    for variant in variants {
        let name = variant["name"].as_str().unwrap();
        let mut sums = [0.0; 4];
        for (run, seed) in variant["runs"].as_array().unwrap().iter().zip([0, 3]) {
            let directory = format!("all/{name}-seed{seed}");
            let results = json(&sandbox, &format!("{directory}/results.json"));
            assert_eq!(run["seed"], seed);
            assert_eq!(run["test_acc"], results["acc"]);
            assert_eq!(run["test_balanced_acc"], results["balanced_acc"]);
            assert_eq!(run["test_macro_f1"], results["macro_f1"]);
            assert_eq!(run["test_top5_acc"], results["top5_acc"]);
            assert_eq!(run["test_loss"], results["loss"]);
            let metrics = read(&sandbox, &format!("{directory}/metrics.jsonl"));
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
            let figures = ["val_acc", "test_acc", "test_balanced_acc", "test_loss"];
            for (sum, figure) in sums.iter_mut().zip(figures) {
                *sum += run[figure].as_f64().unwrap();
            }
        }
        let figures = ["val_acc", "test_acc", "test_balanced_acc", "test_loss"];
        for (sum, figure) in sums.iter().zip(figures) {
            let mean = variant[figure]["mean"].as_f64().unwrap();
            assert!((mean - sum / 2.0).abs() < 1e-12, "{figure}");
            let shown = if figure == "test_loss" {
                format!("{mean:.4} ±")
            } else {
                format!("{:.2}% ±", 100.0 * mean)
            };
            assert!(output.out.contains(&shown), "{shown} in {}", output.out);
            assert!(read(&sandbox, "all/sweep.md").contains(&shown));
        }
        means.push(variant["val_acc"]["mean"].as_f64().unwrap());
    }
    let difference = variants[1]["difference"].as_f64().unwrap();
    assert!((difference - (means[1] - means[0])).abs() < 1e-12);
    assert_eq!(variants[1]["best"], means[1] > means[0]);
}

#[test]
fn members_are_ordinary_runs() {
    let sandbox =
        new_sandbox("seeds = [3]\n[[variant]]\nname = 'fast'\ntraining.learning_rate = 0.02");
    sandbox.succeed(TRAIN);
    sandbox.succeed(
        "train --preset quickstart --config tiny.toml --epochs 2 --learning-rate 0.02 --seed 3 --output alone",
    );
    for file in ["results.json", "config.json", "training/recipe.toml"] {
        let of_sweep = read(&sandbox, &format!("all/fast-seed3/{file}"));
        assert_eq!(of_sweep, read(&sandbox, &format!("alone/{file}")), "{file}");
    }
    sandbox.succeed("evaluate --checkpoint all/fast-seed3");
}

/// Reads the results of all runs.
fn results(sandbox: &Sandbox) -> [String; 4] {
    RUNS.map(|run| read(sandbox, &format!("all/{run}/results.json")))
}

#[test]
fn killed_sweeps_resume() {
    let undisturbed = new_sandbox(SWEEP);
    undisturbed.succeed(TRAIN);

    let sandbox = new_sandbox(SWEEP);
    for run in ["plain-seed0", "fast-seed0", "fast-seed3"] {
        let mut child = sandbox.command(TRAIN).spawn().unwrap();
        let begun = sandbox.path(format!("all/{run}/config.json"));
        while !begun.exists() && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let output = sandbox.succeed(TRAIN);
    assert!(
        output.err.contains("plain with seed 0: already finished"),
        "{}",
        output.err
    );
    assert_eq!(results(&sandbox), results(&undisturbed));

    // Repeating a finished sweep only writes the table again.
    let weights = fs::read(sandbox.path("all/fast-seed3/model.safetensors")).unwrap();
    let again = sandbox.succeed(TRAIN);
    assert_eq!(again.out, output.out);
    assert_eq!(again.err.matches("already finished").count(), 4);
    assert!(weights == fs::read(sandbox.path("all/fast-seed3/model.safetensors")).unwrap());
}

#[cfg(unix)]
#[test]
fn interrupted_sweeps_print_the_resume_command() {
    let sandbox = new_sandbox(SWEEP);
    let long = "--epochs 300 --set training.early_stopping.patience=300";
    let train = TRAIN.replace("--epochs 2", long);
    let child = sandbox.command(&train).spawn().unwrap();
    while !sandbox.path("all/plain-seed0/config.json").exists() {
        sleep(Duration::from_millis(1));
    }
    let signal = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(signal.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("resume with the same command and --output all"),
        "{stderr}"
    );
    assert_eq!(names_in(&sandbox.path("all")), ["plain-seed0"]);
    assert!(
        sandbox
            .path("all/plain-seed0/training/state.safetensors")
            .exists()
    );
}

#[test]
fn runs_of_another_recipe_are_rejected_by_field_and_unchanged() {
    let sandbox = new_sandbox("[[variant]]\nname = 'plain'");
    sandbox.succeed(TRAIN);
    let before = read(&sandbox, "all/plain-seed0/results.json");
    let message = failure(&sandbox, &TRAIN.replace("--epochs 2", "--epochs 3"));
    assert!(
        message.contains(
            "plain-seed0 holds a run of another recipe: training.epochs: expected 3, found 2"
        ),
        "{message}"
    );
    assert_eq!(read(&sandbox, "all/plain-seed0/results.json"), before);
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
        let sandbox = new_sandbox(sweep);
        let message = failure(&sandbox, TRAIN);
        assert!(message.contains(finding), "{finding}: {message}");
        assert!(!sandbox.path("all").exists(), "{finding}");
    }
    let sandbox = new_sandbox(SWEEP);
    for (flags, finding) in [
        ("--resume all", "cannot be used with"),
        ("--seed 3", "found `seeds` in sweep.toml too"),
    ] {
        let message = failure(&sandbox, &format!("train --sweep sweep.toml {flags}"));
        assert!(message.contains(finding), "{message}");
    }
    assert!(!sandbox.path("runs").exists());
}

#[test]
fn without_seeds_in_the_file_the_flag_sets_the_seed() {
    let sandbox = new_sandbox("[[variant]]\nname = 'plain'");
    sandbox.succeed(&format!("{TRAIN} --seed 5"));
    assert!(names_in(&sandbox.path("all")).contains(&"plain-seed5".to_string()));
}

#[test]
fn diverging_variants_do_not_end_the_sweep() {
    let sandbox = new_sandbox(
        "[[variant]]\nname = 'wild'\ntraining.learning_rate = 1e30\n[[variant]]\nname = 'plain'",
    );
    let output = sandbox.run(TRAIN);
    assert_eq!(output.code, Some(1), "{}", output.err);
    assert!(
        output.err.contains("without test results, as the loss or a gradient became NaN or infinite: wild with seed 0"),
        "{}",
        output.err
    );
    let table = json(&sandbox, "all/sweep.json");
    assert_eq!(table["variants"][0]["runs"], serde_json::json!([]));
    assert_eq!(table["variants"][1]["best"], true);
}
