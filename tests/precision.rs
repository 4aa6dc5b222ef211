//! Mixed precision: training in 16 bits gives nearly the same losses as in 32 bits, and saves
//! 32-bit values only.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use perceiver_model::{ModelConfig, Parameters, PerceiverConfig};
use perceiver_ops::{Bf16Kernel, Mode, RngKey, Tape};
use perceiver_tests::program::{Sandbox, tiny};
use perceiver_tests::run::{Run, finished};
use perceiver_train::{
    MixedPrecision, Precision, Preset, Recipe, RunDirectory, Trainer, TrainingData, cross_entropy,
};

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

/// On a CPU without instructions for `bf16`, the log says that `f32` is faster.
#[test]
fn the_log_of_a_bf16_run_on_a_cpu_names_the_kernel() {
    let sandbox = Sandbox::new(PROGRAM);
    sandbox.write("tiny.toml", tiny());
    let train = "train --preset quickstart --config tiny.toml --device cpu";
    let output = sandbox.succeed(&format!("{train} --precision bf16 --output bf16"));
    let expected = match Bf16Kernel::fastest() {
        Some(kernel) => format!("bf16: {kernel} multiplies matrices, with f32 sums"),
        None => "bf16: this CPU has no instructions for it; products are in f32, which is faster with --precision f32"
            .to_string(),
    };
    assert!(output.err.contains(&expected), "{}", output.err);
    let output = sandbox.succeed(&format!("{train} --precision f32 --output f32"));
    assert!(!output.err.contains("bf16:"), "{}", output.err);
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

/// Returns the difference of the whole model's gradients in bf16 and in f32, as a share of the
/// length of the latter, in the shapes of the Keras example.
fn gradient_difference(cross_attention_scale: f64) -> f64 {
    let config = PerceiverConfig {
        image_size: 32,
        num_iterations: 1,
        cross_attention_scale,
        ..PerceiverConfig::default()
    };
    let config = ModelConfig::from(config);
    let parameters = Parameters::from_seed(&config, 3, &Device::Cpu).unwrap();
    let (shape, count) = ((2, 3, 32, 32), 2 * 3 * 32 * 32);
    let value = |i| (RngKey::new(5).bits(i) >> 40) as f32 / 8_388_608.0 - 1.0;
    let images = Tensor::from_iter((0..count).map(value), &Device::Cpu).unwrap();
    let images = images.reshape(shape).unwrap();
    let labels = Tensor::new(&[7u32, 9], &Device::Cpu).unwrap();
    let gradients = |precision| {
        let copy = MixedPrecision::new(&parameters, &config, precision, false).unwrap();
        let model = copy.model(&parameters).unwrap();
        let tape = Tape::start();
        let logits = model.forward(&images, Mode::Inference).unwrap();
        let loss = cross_entropy(&logits, &labels).unwrap();
        copy.gradients(tape, &loss, &parameters).unwrap()
    };
    let [wide, narrow] = [Precision::F32, Precision::Bf16].map(gradients);
    let square = |x: &Tensor| {
        let sum = x.sqr().unwrap().sum_all().unwrap();
        f64::from(sum.to_scalar::<f32>().unwrap())
    };
    let (mut of_difference, mut of_gradient) = (0.0, 0.0);
    for (name, _) in parameters.iter() {
        let [wide, narrow] = [&wide, &narrow].map(|all| all.get(name).unwrap());
        of_difference += square(&(narrow - wide).unwrap());
        of_gradient += square(wide);
    }
    f64::sqrt(of_difference / of_gradient)
}

#[test]
fn bf16_gradients_are_within_a_hundredth_of_f32() {
    let share = gradient_difference(0.0); // 1 / sqrt(width of a head)
    assert!(share > 1e-5, "it was not computed in 16 bits: {share}");
    assert!(share < 1e-2, "{share} of the gradient's length");
}

/// The example does not scale the logits of cross-attention. Their standard deviation is 12, so
/// rounding their operands changes probabilities by some percent.
#[test]
fn bf16_gradients_of_unscaled_logits_are_within_a_fortieth_of_f32() {
    let share = gradient_difference(1.0);
    assert!(share < 2.5e-2, "{share} of the gradient's length");
}
