//! Mixed precision: steps in 16 bits lead where those in 32 lead, and keep nothing of 16 bits.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;

use candle_core::{DType, Device};
use perceiver_tests::program::{Sandbox, tiny};
use perceiver_tests::run::{Run, finished};
use perceiver_train::{Callbacks, Preset, Recipe, RunDirectory, Trainer, TrainingData};

const PROGRAM: &str = env!("CARGO_BIN_EXE_perceiver-under-test");

#[test]
fn bf16_learns_as_f32_does_and_keeps_f32() {
    let train = |precision: &str| {
        let changes = format!(
            "data.limit_train = 300\ndata.limit_test = 20\ntraining.epochs = 2\ntraining.batch_size = 32\n\
             training.precision = '{precision}'\nmodel.num_iterations = 1"
        );
        let layers = [
            ("quickstart", Preset::Quickstart.table()),
            ("test", toml::from_str(&changes).unwrap()),
        ];
        let recipe = Recipe::from_layers(&layers).unwrap();
        let data = TrainingData::load(&recipe).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let run = RunDirectory::unused(directory.path().join("run")).unwrap();
        let mut trainer = Trainer::start(recipe, data, run.clone(), Device::Cpu).unwrap();
        trainer
            .fit(&mut Callbacks::new(), &AtomicBool::new(false))
            .unwrap();
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
fn a_run_in_bf16_is_resumed_to_the_bit() {
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
fn a_checkpoint_is_judged_in_bf16_nearly_as_in_f32() {
    let place = Sandbox::new(PROGRAM);
    place.write("tiny.toml", tiny());
    place.succeed("train --preset quickstart --config tiny.toml --device cpu --output run");
    let loss = |flags: &str| {
        let said = place.succeed(&format!("evaluate --checkpoint run --json {flags}"));
        let results: serde_json::Value = serde_json::from_str(&said.out).unwrap();
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
fn tf32_is_for_an_nvidia_gpu() {
    let place = Sandbox::new(PROGRAM);
    place.write("tiny.toml", tiny());
    let train = "train --preset quickstart --config tiny.toml --device cpu --output run";
    let said = place.run(&format!("{train} --precision tf32"));
    assert_eq!(said.code, Some(1));
    let expected = "device cpu: expected an NVIDIA GPU for precision tf32, found another";
    assert!(said.err.contains(expected), "{}", said.err);
    let said = place.run(&format!("{train} --precision f64"));
    assert_eq!(said.code, Some(2));
    assert!(
        said.err
            .contains("expected f32, tf32 or bf16, found \"f64\""),
        "{}",
        said.err
    );
}
