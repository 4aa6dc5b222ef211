//! What a run is warned of, and that watching and measuring it changes nothing.

use std::fs;

use perceiver_tests::program::Sandbox;
use perceiver_train::{EpochMetrics, Warning, WarningKind};

/// The example with few and small pictures, few latents and blocks; width, scale and learning rate stay.
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
    place: Sandbox,
    /// Everything it said.
    said: String,
}

impl Run {
    fn of(recipe: &str, flags: &str) -> Self {
        let place = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
        place.write("small.toml", recipe);
        let arguments = format!("train --dataset shapes --config small.toml --output run {flags}");
        let said = place.succeed(&arguments).err;
        Self { place, said }
    }

    fn warnings(&self) -> Vec<&str> {
        let warned = |line: &&str| line.contains("WARN");
        self.said.lines().filter(warned).collect()
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.place.path("run").join(file)).unwrap()
    }

    fn metrics(&self) -> Vec<EpochMetrics> {
        let text = self.text("metrics.jsonl");
        let epochs = text.lines().map(serde_json::from_str);
        epochs.collect::<Result<_, _>>().unwrap()
    }
}

#[test]
fn the_example_is_warned_before_its_first_step_and_when_its_loss_stays() {
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
        run.said.find("WARN") < run.said.find("epoch 1/8"),
        "{}",
        run.said
    );
    let stuck = |line: &&&str| line.contains("no better than chance for 20 classes");
    assert_eq!(warnings.iter().filter(stuck).count(), 1, "{}", run.said);
    let saturated = |line: &&&str| line.contains("is saturated");
    assert_eq!(warnings.iter().filter(saturated).count(), 1, "{}", run.said);

    // What was said is in the run's files too, each once.
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
        page.contains("<h3>Warnings</h3>"),
        "no warnings in the report"
    );
    let events = fs::read(events(&run)).unwrap();
    for (_, warning) in &kept {
        let shown = warning.finding.split('\'').next().unwrap();
        assert!(page.contains(shown), "{shown}");
        let text = warning.to_string();
        let found = events
            .windows(text.len())
            .any(|part| part == text.as_bytes());
        assert!(found, "not in the event file: {text}");
    }
}

/// A run's event file.
fn events(run: &Run) -> std::path::PathBuf {
    let mut files = fs::read_dir(run.place.path("run/tensorboard")).unwrap();
    files.next().unwrap().unwrap().path()
}

/// What the watchdog has seen and said is saved with the run.
#[test]
fn a_run_that_goes_on_is_not_warned_of_the_same_again() {
    let run = Run::of(SMALL, "--preset keras --epochs 1 --limit-train 80");
    assert_eq!(run.warnings().len(), 1, "{}", run.said);
    let said = run.place.succeed("train --resume run --epochs 2").err;
    assert!(!said.contains("is saturated"), "{said}");
    let kept = run.metrics().into_iter().map(|epoch| epoch.warnings.len());
    assert_eq!(kept.collect::<Vec<_>>(), [1, 0]);
}

#[test]
fn its_cure_cures_its_attention() {
    let run = Run::of(
        SMALL,
        "--preset keras --epochs 1 --limit-train 80 --set model.cross_attention_scale=0",
    );
    assert_eq!(run.warnings(), Vec::<&str>::new());
}

#[test]
fn models_that_learn_are_not_warned() {
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
fn a_learning_rate_that_does_nothing_is_told_by_the_loss() {
    let small = "model.image_size = 16\ndata.limit_test = 4\ntraining.batch_size = 8";
    let run = Run::of(
        small,
        "--preset quickstart --epochs 2 --limit-train 500 --learning-rate 1e-9",
    );
    let warnings = run.warnings();
    assert_eq!(warnings.len(), 1, "{}", run.said);
    assert!(warnings[0].contains("no better than chance"));
}

#[test]
fn a_diagnosis_changes_no_bit_of_a_run_and_is_in_its_metrics() {
    let small = "
model.image_size = 16
model.dropout_rate = 0.1
data.limit_test = 4
data.limit_train = 100
training.epochs = 2";
    let plain = Run::of(small, "--preset quickstart");
    let diagnosed = Run::of(small, "--preset quickstart --diagnose");
    let weights = |run: &Run| fs::read(run.place.path("run/model.safetensors")).unwrap();
    assert!(weights(&plain) == weights(&diagnosed), "the weights differ");
    assert!(!plain.text("metrics.jsonl").contains("diagnosis"));
    let charts = [
        "Gradient norm",
        "Entropy of attention",
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
        // The norm of all is at least that of one and at most their sum.
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
