//! Muon: its steps against NumPy (`tests/oracle/muon.py`), and the parameters that it leaves to `AdamW`.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use perceiver_model::{Parameters, PerceiverConfig};
use perceiver_tests::tensors::{distance, values};
use perceiver_train::{Gradients, MuonRecipe, MuonScaleName, OptimizerName, OptimizerRecipe};

/// The name of a hidden matrix.
const HIDDEN: &str = "transformer.0.ffn.0.weight";

/// The learning rate of hidden matrices in the reference, and the factor that it is of the run's.
const LEARNING_RATE: f32 = 0.02;
const FACTOR: f64 = 4.0;

fn reference() -> HashMap<String, Tensor> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/muon/muon.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn recipe(nesterov: bool, scale: MuonScaleName) -> OptimizerRecipe {
    OptimizerRecipe {
        name: OptimizerName::Muon,
        weight_decay: 0.1,
        muon: MuonRecipe {
            learning_rate_factor: FACTOR,
            nesterov,
            scale,
            ..MuonRecipe::default()
        },
        ..OptimizerRecipe::default()
    }
}

#[test]
fn six_steps_equal_numpy() {
    let reference = reference();
    for (case, nesterov, scale) in [
        ("tall", true, MuonScaleName::Shape),
        ("wide", true, MuonScaleName::Shape),
        ("square", false, MuonScaleName::Shape),
        ("moonlight", true, MuonScaleName::Moonlight),
        ("kernel", true, MuonScaleName::Shape),
    ] {
        let of = |kind: &str, step: usize| &reference[&format!("{case}/{kind}{step}")];
        let initial = [(HIDDEN.to_string(), of("w", 0).clone())];
        let parameters = Parameters::from_variables(initial).unwrap();
        let mut optimizer = recipe(nesterov, scale).build(LEARNING_RATE / FACTOR as f32);
        for step in 1..=6 {
            let gradients = [(HIDDEN.to_string(), of("g", step).clone())];
            let gradients = Gradients::from_tensors(gradients);
            optimizer.step(&parameters, &gradients).unwrap();
            let (_, weight) = parameters.iter().next().unwrap();
            let difference = distance(weight, of("w", step));
            assert!(difference < 2e-5, "{case}, step {step}: {difference}");
            assert!(
                distance(weight, of("w", step - 1)) > 1e-3,
                "{case}, step {step}"
            );
        }
    }
}

fn model() -> PerceiverConfig {
    PerceiverConfig {
        image_size: 8,
        stem_units: vec![6],
        patch_size: 2,
        latent_dim: 2,
        projection_dim: 4,
        num_heads: 2,
        ffn_units: vec![4],
        classifier_units: vec![5, 3],
        ..PerceiverConfig::default()
    }
}

/// Takes three steps, and returns all parameters.
fn after_steps(recipe: &OptimizerRecipe) -> HashMap<String, Tensor> {
    let parameters = Parameters::from_seed(&model(), 0, &Device::Cpu).unwrap();
    let mut optimizer = recipe.build(0.01);
    for seed in 1..=3 {
        let like = Parameters::from_seed(&model(), seed, &Device::Cpu).unwrap();
        let gradients = Gradients::from_tensors(like.tensors());
        optimizer.step(&parameters, &gradients).unwrap();
    }
    parameters.tensors().into_iter().collect()
}

#[test]
fn parameters_that_are_no_hidden_matrices_are_updated_as_by_adamw() {
    let muon = recipe(true, MuonScaleName::Shape);
    let adamw = OptimizerRecipe {
        name: OptimizerName::AdamW,
        ..muon
    };
    let (found, expected) = (after_steps(&muon), after_steps(&adamw));
    let same = |name: &String| values(&found[name]) == values(&expected[name]);
    let (same, differ): (Vec<&String>, Vec<&String>) = found.keys().partition(|name| same(name));
    for part in [
        "stem.0.convolution.weight",
        "cross_attention.query.weight",
        "transformer.0.ffn.0.weight",
    ] {
        assert!(
            differ.iter().any(|name| *name == part),
            "{part} in {differ:?}"
        );
    }
    for name in &differ {
        assert!(
            name.ends_with(".weight") && !name.starts_with("head"),
            "{name}"
        );
    }
    for part in [
        "latents",
        "encoder.positions",
        "encoder.projection.weight",
        "head.0.weight",
        "head.1.bias",
    ] {
        assert!(same.iter().any(|name| *name == part), "{part} in {same:?}");
    }
}

#[test]
fn invalid_hyperparameters_are_named() {
    use perceiver_train::Recipe;
    for (field, message) in [
        (
            "muon.momentum = 1.0",
            "training.optimizer.muon.momentum: expected at least 0 and below 1",
        ),
        (
            "muon.newton_schulz_steps = 0",
            "training.optimizer.muon.newton_schulz_steps: expected from 1 to 100",
        ),
        (
            "muon.learning_rate_factor = 0.0",
            "training.optimizer.muon.learning_rate_factor: expected a number above 0",
        ),
        ("muon.scale = 'other'", "other"),
    ] {
        let text = format!("[training.optimizer]\nname = 'muon'\n{field}");
        let error = Recipe::from_layers(&[("my.toml", &text)])
            .unwrap_err()
            .to_string();
        assert!(error.contains(message), "{message:?} in {error}");
    }
    let text = "[data.augmentation]\nhorizontal_flip = false\nalternating_flip = true";
    let error = Recipe::from_layers(&[("my.toml", text)])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("augmentation.alternating_flip: expected false"),
        "{error}"
    );
}
