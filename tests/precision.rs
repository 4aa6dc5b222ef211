//! Mixed precision: training in 16 bits gives nearly the same losses as in 32 bits, and saves
//! 32-bit values only.

use std::collections::HashMap;

use candle_core::{DType, Device};
use perceiver_tests::program::{Sandbox, tiny};
use perceiver_tests::run::{Run, finished};
use perceiver_train::{Preset, Recipe, RunDirectory, Trainer, TrainingData};

const PROGRAM: &str = env!("CARGO_BIN_EXE_perceiver-under-test");

#[test]
fn bf16_trains_like_f32_and_keeps_f32_weights() {
    let train = |precision: &str| {
        let changes = format!(
            "data.limit_train = 300\ndata.limit_test = 20\ntraining.epochs = 2\ntraining.batch_size = 32\n\
             training.precision = '{precision}'\nmodel.num_iterations = 1"
        );
        let layers = [
            ("quickstart", Preset::Quickstart.toml()),
            ("test", &changes),
        ];
        let recipe = Recipe::from_layers(&layers).unwrap();
        let data = TrainingData::load(&recipe).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let run = RunDirectory::unused(directory.path().join("run")).unwrap();
        let mut trainer = Trainer::start(recipe, data, run.clone(), Device::Cpu).unwrap();
        trainer.fit(&mut ()).unwrap();
        let saved: HashMap<_, _> =
            candle_core::safetensors::load(run.state(), &Device::Cpu).unwrap();
        assert!(saved.values().all(|tensor| tensor.dtype() == DType::F32));
        let history = trainer.history();
        let losses: Vec<f64> = history.iter().map(|epoch| epoch.loss).collect();
        (losses, history[1].val_loss)
    };
    let (narrow, narrow_val) = train("bf16");
    let (wide, wide_val) = train("f32");
    assert_eq!(narrow.len(), 2);
    assert_ne!(narrow, wide, "it was not computed in 16 bits");
    for (narrow, wide) in narrow.iter().zip(&wide) {
        assert!((narrow / wide - 1.0).abs() < 0.02, "{narrow} for {wide}");
    }
    assert!(wide[1] < 0.99 * wide[0], "nothing was learned: {wide:?}");
    assert!(
        (narrow_val / wide_val - 1.0).abs() < 0.03,
        "{narrow_val} for {wide_val}"
    );
}

#[test]
fn bf16_runs_resume_bitwise_identical() {
    let more = "precision = \"bf16\"\ncheckpoint_every = 2\n";
    let [run, expected] = [(); 2].map(|()| Run::new(PROGRAM, more));
    finished(expected.start());
    let mut child = run.start().spawn().unwrap();
    while run.steps_saved().unwrap_or(0) < 6 {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let other = run
        .resume("")
        .arg("--precision")
        .arg("f32")
        .output()
        .unwrap();
    assert_eq!(other.status.code(), Some(2), "the recipe is the run's");
    finished(run.resume(""));
    run.assert_same_end(&expected);
}

#[test]
fn bf16_evaluation_is_close_to_f32() {
    let sandbox = Sandbox::new(PROGRAM);
    sandbox.write("tiny.toml", tiny());
    sandbox.succeed("train --preset quickstart --config tiny.toml --device cpu --output run");
    let loss = |flags: &str| {
        let output = sandbox.succeed(&format!("evaluate --checkpoint run --json {flags}"));
        let results: serde_json::Value = serde_json::from_str(&output.out).unwrap();
        results["loss"].as_f64().unwrap()
    };
    let (wide, narrow) = (loss(""), loss("--precision bf16"));
    assert_eq!(wide.to_bits(), loss("--precision f32").to_bits());
    assert!(
        narrow.to_bits() != wide.to_bits() && (narrow / wide - 1.0).abs() < 0.02,
        "{narrow} for {wide}"
    );
}

#[test]
fn tf32_needs_an_nvidia_gpu() {
    let sandbox = Sandbox::new(PROGRAM);
    sandbox.write("tiny.toml", tiny());
    let train = "train --preset quickstart --config tiny.toml --device cpu --output run";
    let output = sandbox.run(&format!("{train} --precision tf32"));
    assert_eq!(output.code, Some(1));
    let expected = "device cpu: expected an NVIDIA GPU for precision tf32, found another";
    assert!(output.err.contains(expected), "{}", output.err);
    let output = sandbox.run(&format!("{train} --precision f64"));
    assert_eq!(output.code, Some(2));
    assert!(
        output
            .err
            .contains("expected f32, tf32 or bf16, found \"f64\""),
        "{}",
        output.err
    );
}
