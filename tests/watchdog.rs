//! Warnings during a run, and that monitoring and diagnostics do not change it.

use std::fs;

use perceiver_tests::program::Sandbox;
use perceiver_train::{EpochMetrics, Warning, WarningKind};

/// The Keras example with few small images, few latents and blocks, but the same width, scale and
/// learning rate.
const SMALL: &str = "
[model]
image_size = 16
latent_dim = 16
num_transformer_blocks = 1
[data]
limit_train = 240
limit_test = 4
[training]
batch_size = 8
";

struct Run {
    sandbox: Sandbox,
    /// Everything on standard error.
    stderr: String,
}

impl Run {
    fn of(recipe: &str, flags: &str) -> Self {
        let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
        sandbox.write("small.toml", recipe);
        let arguments = format!("train --dataset shapes --config small.toml --output run {flags}");
        let stderr = sandbox.succeed(&arguments).err;
        Self { sandbox, stderr }
    }

    fn warnings(&self) -> Vec<&str> {
        let warned = |line: &&str| line.contains("WARN");
        self.stderr.lines().filter(warned).collect()
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.sandbox.path("run").join(file)).unwrap()
    }

    fn metrics(&self) -> Vec<EpochMetrics> {
        let text = self.text("metrics.jsonl");
        let epochs = text.lines().map(serde_json::from_str);
        epochs.collect::<Result<_, _>>().unwrap()
    }
}

#[test]
fn the_keras_example_gets_warnings_at_the_start_and_for_a_stuck_loss() {
    let run = Run::of(SMALL, "--preset keras --epochs 8");
    let warnings = run.warnings();
    let first = warnings[0];
    assert!(
        first.contains("cross-attention of iteration 1 is saturated"),
        "{first}"
    );
    assert!(first.contains("dot products of 256 terms"), "{first}");
    assert!(
        first.contains("--set model.cross_attention_scale=0"),
        "{first}"
    );
    assert!(
        run.stderr.find("WARN") < run.stderr.find("epoch 1/8"),
        "{}",
        run.stderr
    );
    let stuck = |line: &&&str| line.contains("no better than chance for 20 classes");
    assert_eq!(warnings.iter().filter(stuck).count(), 1, "{}", run.stderr);
    let saturated = |line: &&&str| line.contains("is saturated");
    assert_eq!(
        warnings.iter().filter(saturated).count(),
        1,
        "{}",
        run.stderr
    );

    // Each warning is also in the files of the run, once.
    let kept: Vec<(usize, Warning)> = run
        .metrics()
        .into_iter()
        .flat_map(|epoch| epoch.warnings.into_iter().map(move |w| (epoch.epoch, w)))
        .collect();
    assert_eq!(kept.len(), warnings.len(), "{kept:?}");
    let (epoch, first) = &kept[0];
    assert_eq!((*epoch, first.step), (1, 0));
    assert_eq!(first.kind, WarningKind::SaturatedAttention);
    assert!(
        run.text("metrics.jsonl")
            .contains("\"kind\":\"saturated_attention\"")
    );
    assert!(!run.text("metrics.csv").contains("saturated"));
    let page = run.text("report.html");
    assert!(
        page.contains("<h3 id=\"warnings\">Warnings</h3>"),
        "no warnings in the report"
    );
    let events = fs::read(events(&run)).unwrap();
    for (_, warning) in &kept {
        let shown = warning.finding.split('\'').next().unwrap();
        assert!(page.contains(shown), "{shown}");
        let text = warning.to_string();
        let is_logged = events
            .windows(text.len())
            .any(|part| part == text.as_bytes());
        assert!(is_logged, "not in the event file: {text}");
    }
}

/// Returns the event file of a run.
fn events(run: &Run) -> std::path::PathBuf {
    let mut files = fs::read_dir(run.sandbox.path("run/tensorboard")).unwrap();
    files.next().unwrap().unwrap().path()
}

/// The state of the watchdog is saved with the run.
#[test]
fn resumed_runs_do_not_repeat_warnings() {
    let run = Run::of(SMALL, "--preset keras --epochs 1 --limit-train 80");
    assert_eq!(run.warnings().len(), 1, "{}", run.stderr);
    let stderr = run.sandbox.succeed("train --resume run --epochs 2").err;
    assert!(!stderr.contains("is saturated"), "{stderr}");
    let kept = run.metrics().into_iter().map(|epoch| epoch.warnings.len());
    assert_eq!(kept.collect::<Vec<_>>(), [1, 0]);
}

#[test]
fn the_suggested_fix_removes_the_attention_warning() {
    let run = Run::of(
        SMALL,
        "--preset keras --epochs 1 --limit-train 80 --set model.cross_attention_scale=0",
    );
    assert_eq!(run.warnings(), Vec::<&str>::new());
}

#[test]
fn models_that_learn_get_no_warnings() {
    let small = "
model.image_size = 16
data.limit_test = 4
training.batch_size = 16
training.epochs = 3";
    for flags in [
        "--preset quickstart --limit-train 1000",
        "--preset cifar100-cpu --limit-train 100",
    ] {
        let run = Run::of(small, flags);
        assert_eq!(run.warnings(), Vec::<&str>::new(), "{flags}");
    }
}

#[test]
fn a_too_low_learning_rate_is_reported_as_a_stuck_loss() {
    let small = "model.image_size = 16\ndata.limit_test = 4\ntraining.batch_size = 8";
    let run = Run::of(
        small,
        "--preset quickstart --epochs 2 --limit-train 500 --learning-rate 1e-9",
    );
    let warnings = run.warnings();
    assert_eq!(warnings.len(), 1, "{}", run.stderr);
    assert!(warnings[0].contains("no better than chance"));
}

#[test]
fn diagnostics_do_not_change_a_run_and_are_in_its_metrics() {
    let small = "
model.image_size = 16
model.dropout_rate = 0.1
data.limit_test = 4
data.limit_train = 100
training.epochs = 2";
    let plain = Run::of(small, "--preset quickstart");
    let diagnosed = Run::of(small, "--preset quickstart --diagnose");
    let weights = |run: &Run| fs::read(run.sandbox.path("run/model.safetensors")).unwrap();
    assert!(weights(&plain) == weights(&diagnosed), "the weights differ");
    assert!(!plain.text("metrics.jsonl").contains("diagnosis"));
    let charts = [
        "Gradient norm by layer",
        "Entropy of cross attention",
        "Spread of the latents",
    ];
    for chart in charts {
        assert!(diagnosed.text("report.html").contains(chart), "{chart}");
        assert!(!plain.text("report.html").contains(chart), "{chart}");
    }
    for (plain, diagnosed) in plain.metrics().iter().zip(diagnosed.metrics()) {
        let diagnosis = diagnosed.diagnosis.as_ref().unwrap();
        let layers: Vec<&String> = diagnosis.gradients.layers.keys().collect();
        let expected = ["cross_attention", "encoder", "head", "latents"];
        assert_eq!(layers[..4], expected);
        assert_eq!(layers[4..], ["transformer.0", "transformer.1"]);
        // The total norm is at least that of each layer and at most their sum.
        let norms = diagnosis.gradients.layers.values();
        let mean = diagnosis.gradients.norm_mean;
        assert!(norms.clone().all(|norm| *norm <= mean) && mean <= norms.sum());
        assert!(mean <= diagnosis.gradients.norm_max);
        assert_eq!(diagnosis.model.cross_attentions.len(), 2);
        let blocks = diagnosis.model.self_attentions.iter().map(Vec::len);
        assert_eq!(blocks.collect::<Vec<_>>(), [2, 2]);
        let undiagnosed = EpochMetrics {
            diagnosis: None,
            seconds: plain.seconds,
            images_per_second: plain.images_per_second,
            ..diagnosed.clone()
        };
        assert_eq!(undiagnosed, *plain);
    }
}
