//! The model: every stage of the forward pass, the gradient of every parameter, the weights after
//! five Adam steps.

use candle_core::{DType, Device, Tensor};
use perceiver_model::{AttentionForm, Parameters, Perceiver, PerceiverConfig, Stage, keras};
use perceiver_ops::{Mode, Tape};
use perceiver_train::{Adam, Gradients, Optimizer, cross_entropy};

use crate::golden::{self, Arrays, assert_close};

const FORWARD: f32 = 1e-4;
const GRADIENT: f32 = 1e-3;
const WEIGHTS: f32 = 1e-4;

struct Case {
    name: String,
    config: PerceiverConfig,
    arrays: Arrays,
    parameters: Parameters,
    model: Perceiver,
}

/// Returns every reference case in both forms of attention, which are the same function.
fn cases() -> Vec<Case> {
    let forms = [AttentionForm::Direct, AttentionForm::Absorbed];
    forms.into_iter().flat_map(cases_in_form).collect()
}

fn cases_in_form(form: AttentionForm) -> Vec<Case> {
    let build = |(name, facts, arrays): (String, serde_json::Value, Arrays)| {
        let config: PerceiverConfig = serde_json::from_value(facts["config"].clone()).unwrap();
        let parameters = keras::import(&config, &arrays, "w/", &Device::Cpu).unwrap();
        assert_eq!(
            parameters.count() as u64,
            facts["params"].as_u64().unwrap(),
            "{name}"
        );
        let model = parameters.model(&config).unwrap();
        let model = model.with_attention_form(form);
        Case {
            name: format!("{name}, {form:?}"),
            config,
            arrays,
            parameters,
            model,
        }
    };
    golden::model_cases().into_iter().map(build).collect()
}

impl Case {
    /// Returns the images of the case, converted from Keras's `[batch, H, W, channels]`.
    fn images(&self) -> Tensor {
        let images = self.arrays["input"].permute((0, 3, 1, 2)).unwrap();
        images.contiguous().unwrap()
    }

    /// Returns the mean cross-entropy of the case's batch, without dropout.
    fn loss(&self) -> Tensor {
        let logits = self.model.forward(&self.images(), Mode::Inference).unwrap();
        let labels = self.arrays["labels"].to_dtype(DType::U32).unwrap();
        cross_entropy(&logits, &labels).unwrap()
    }

    fn gradients(&self) -> Gradients {
        let tape = Tape::start();
        Gradients::of(tape, &self.loss(), &self.parameters).unwrap()
    }
}

/// Whether the gradient is mathematically zero, so that Keras has only rounding errors there: a
/// constant added to all keys shifts every row of logits, which does not change the softmax.
fn is_key_bias(name: &str) -> bool {
    name.ends_with("key.bias")
}

#[test]
fn every_stage_of_the_forward_pass_equals_keras() {
    for case in cases() {
        let mut compared = 0;
        let mut probe = |stage, tensor: &Tensor| {
            let key = match stage {
                Stage::Encoded => "act/encoded".to_string(),
                Stage::CrossAttention(i) => format!("act/cross{i}"),
                Stage::Transformer(i) => format!("act/latent{i}"),
                Stage::Pooled => "act/pooled".to_string(),
                Stage::Logits => "act/logits".to_string(),
                _ => return, // no reference values of attention logits and maps
            };
            let what = format!("{}: {key}", case.name);
            assert_close(tensor, &case.arrays[&key], FORWARD, &what);
            compared += 1;
        };
        case.model
            .forward_probed(&case.images(), Mode::Inference, &mut probe)
            .unwrap();
        let stages = case
            .arrays
            .keys()
            .filter(|key| key.starts_with("act/"))
            .count();
        assert_eq!(compared, stages, "{}: stages compared", case.name);
    }
}

#[test]
fn every_gradient_equals_keras() {
    for case in cases() {
        let gradients = case.gradients();
        let expected = keras::convert(&case.config, &case.arrays, "grad/").unwrap();
        let overall = expected
            .values()
            .map(|gradient| golden::largest(&golden::values(gradient)))
            .fold(0.0, f32::max);
        let mut compared = 0;
        for (name, _) in case.parameters.iter() {
            let what = format!("{}: gradient of {name}", case.name);
            let actual = gradients
                .get(name)
                .unwrap_or_else(|| panic!("{what} is missing"));
            if is_key_bias(name) {
                let noise = golden::largest(&golden::values(actual));
                assert!(noise < 1e-5 * overall, "{what} is {noise:e}, not zero");
            } else {
                assert_close(actual, &expected[name], GRADIENT, &what);
            }
            compared += 1;
        }
        let variables = case
            .arrays
            .keys()
            .filter(|key| key.starts_with("grad/"))
            .count();
        assert_eq!(compared, variables, "{}: gradients compared", case.name);
    }
}

#[test]
fn weights_and_losses_of_five_adam_steps_equal_keras() {
    for case in cases() {
        let mut adam = Adam::new(1e-3);
        let losses = golden::values(&case.arrays["loss"]);
        for (step, expected) in losses.iter().enumerate() {
            let loss = case.loss().to_scalar::<f32>().unwrap();
            assert!(
                (loss - expected).abs() <= FORWARD * expected.abs(),
                "{}: loss before step {step}: {loss}, Keras's {expected}",
                case.name
            );
            if step + 1 < losses.len() {
                adam.step(&case.parameters, &case.gradients()).unwrap();
                compare_weights(&case, step + 1);
            }
        }
    }
}

/// Compares all weights with Keras's after `step` steps, if the case has them.
fn compare_weights(case: &Case, step: usize) {
    let prefix = format!("step{step}/");
    if !case.arrays.keys().any(|key| key.starts_with(&prefix)) {
        return;
    }
    let expected = keras::convert(&case.config, &case.arrays, &prefix).unwrap();
    for (name, variable) in case.parameters.iter() {
        let what = format!("{}: {name} after {step} Adam steps", case.name);
        if is_key_bias(name) {
            // Adam scales rounding errors up to its learning rate, so only this bound holds.
            let distance = golden::distance(variable, &expected[name], &what);
            assert!(distance <= 2e-3 * step as f32, "{what}: {distance:e} away");
        } else {
            assert_close(variable, &expected[name], WEIGHTS, &what);
        }
    }
}
