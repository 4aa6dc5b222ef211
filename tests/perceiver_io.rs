//! Perceiver IO image classifiers against Hugging Face transformers: random-weight checkpoints as the Hub has them, with
//! the numbers of a forward and a backward pass. `PERCEIVER_IO_GOLDEN_DIR` names a directory with one checkpoint per
//! kind; without it, `perceiver_io` in `PERCEIVER_GOLDEN_DIR`, and else the fixtures.
//!
//! Random weights with sharp attention amplify rounding, up to some thousand times: the numbers of transformers, in
//! `f32`, then have few correct digits. So the model is compared in `f64`, and the tolerance grows with the rounding
//! of this tensor, measured as the largest distance of the model in `f32` from that in `f64`.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use perceiver_model::{
    AttentionForm, InputKind, ModelError, Parameters, PerceiverIo, PerceiverIoConfig, Stage,
    is_perceiver_io_config, read_weights,
};
use perceiver_ops::{Mode, Tape};
use perceiver_train::{Gradients, cross_entropy};

/// Tolerances without rounding, as multiples of the largest entry of the expected tensor.
const FORWARD: f32 = 1e-4;
const GRADIENT: f32 = 1e-3;

/// How much larger the rounding of transformers may be than that measured here.
const ROUNDING_FACTOR: f32 = 4.0;

/// The most rounding that a comparison still makes sense with.
const MOST_ROUNDING: f32 = 0.02;

struct Case {
    name: String,
    directory: PathBuf,
    config: PerceiverIoConfig,
    parameters: Parameters,
    golden: HashMap<String, Tensor>,
}

fn goldens() -> PathBuf {
    if let Some(directory) = std::env::var_os("PERCEIVER_IO_GOLDEN_DIR") {
        return directory.into();
    }
    let among = std::env::var_os("PERCEIVER_GOLDEN_DIR").map(PathBuf::from);
    let among = among.map(|directory| directory.join("perceiver_io"));
    among
        .filter(|directory| directory.is_dir())
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/perceiver_io"))
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for entry in fs::read_dir(goldens()).unwrap() {
        let directory = entry.unwrap().path();
        if !directory.join("golden.safetensors").exists() {
            continue;
        }
        let config = PerceiverIoConfig::open(directory.join("config.json")).unwrap();
        let file = read_weights(&directory).unwrap();
        assert_eq!(file.path, directory.join("model.safetensors"));
        let golden = directory.join("golden.safetensors");
        let input = InputKind::of_tensors(file.tensors.keys().map(String::as_str));
        assert_eq!(config.input, input);
        let parameters = Parameters::from_loaded_tensors(&config, file.tensors, &Device::Cpu);
        cases.push(Case {
            name: directory
                .file_name()
                .unwrap()
                .to_string_lossy()
                .into_owned(),
            config,
            parameters: parameters.unwrap(),
            golden: candle_core::safetensors::load(golden, &Device::Cpu).unwrap(),
            directory,
        });
    }
    assert!(
        !cases.is_empty(),
        "no checkpoint in {}",
        goldens().display()
    );
    cases
}

impl Case {
    fn loss(&self, model: &PerceiverIo) -> Tensor {
        let images = &self.golden["pixel_values"];
        let logits = model.forward(images, Mode::Inference).unwrap();
        let labels = self.golden["labels"].to_dtype(DType::U32).unwrap();
        cross_entropy(&logits, &labels).unwrap()
    }

    /// The model in `f64`.
    fn exact(&self) -> PerceiverIo {
        let in_f64 = |_: &str, tensor: &Tensor| tensor.to_dtype(DType::F64);
        let model = self.parameters.model_through(&self.config, in_f64);
        model.unwrap()
    }

    /// The model in `f32` as it is, and with either form of attention in both cross-attentions.
    fn rounded(&self) -> [PerceiverIo; 3] {
        let model = || self.parameters.model(&self.config).unwrap();
        let in_form = |form| model().with_attention_form(form);
        [
            model(),
            in_form(AttentionForm::Direct),
            in_form(AttentionForm::Absorbed),
        ]
    }

    /// The golden stages of a forward pass, and the loss.
    fn stages(&self, model: &PerceiverIo) -> HashMap<String, Tensor> {
        let blocks = self.config.num_blocks;
        let mut stages = HashMap::from([("loss".to_string(), self.loss(model))]);
        let mut probe = |stage, tensor: &Tensor| {
            let key = match stage {
                Stage::CrossAttention(0) => "cross",
                Stage::Transformer(block) if block + 1 == blocks => "latents",
                Stage::Logits => "logits",
                _ => return,
            };
            stages.insert(key.to_string(), tensor.clone());
        };
        let images = &self.golden["pixel_values"];
        model
            .forward_probed(images, Mode::Inference, &mut probe)
            .unwrap();
        stages
    }

    /// The gradients of all parameters, by candle's backward pass.
    fn gradients(&self, model: &PerceiverIo) -> HashMap<String, Tensor> {
        let store = self.loss(model).backward().unwrap();
        let variables = self.parameters.iter();
        variables
            .map(|(name, variable)| (name.to_string(), store.get(variable).unwrap().clone()))
            .collect()
    }

    /// The gradients of all parameters, by the tape that training uses.
    fn recorded_gradients(&self, model: &PerceiverIo) -> HashMap<String, Tensor> {
        let (tape, parameters) = (Tape::start(), &self.parameters);
        let gradients = Gradients::of(tape, &self.loss(model), parameters).unwrap();
        let names = parameters.iter().map(|(name, _)| name);
        names
            .map(|name| (name.to_string(), gradients.get(name).unwrap().clone()))
            .collect()
    }

    /// Compares tensors of the model in `f64` with golden ones, given those of models in `f32`.
    fn compare(
        &self,
        exact: &HashMap<String, Tensor>,
        rounded: &[HashMap<String, Tensor>],
        prefix: &str,
        tolerance: f32,
    ) {
        for (name, exact) in exact {
            let what = format!("{}: {prefix}{name}", self.name);
            let distances = rounded
                .iter()
                .map(|other| distance(&other[name], exact, &what));
            let rounding = distances.fold(0.0, f32::max);
            let distance = distance(exact, &self.golden[&format!("{prefix}{name}")], &what);
            assert!(
                rounding <= MOST_ROUNDING,
                "{what}: {rounding:e} by rounding"
            );
            let bound = tolerance + ROUNDING_FACTOR * rounding;
            assert!(
                distance <= bound,
                "{what}: {distance:e} of the largest entry from that of transformers, more than {bound:e}"
            );
        }
    }

    fn tensors(&self) -> HashMap<String, Tensor> {
        let tensors = self.parameters.tensors().into_iter();
        tensors
            .map(|(name, tensor)| (name, tensor.detach()))
            .collect()
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_dtype(DType::F32).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, v| largest.max(v.abs()))
}

/// The largest difference of two tensors of one shape, as a multiple of the largest expected entry.
fn distance(actual: &Tensor, expected: &Tensor, what: &str) -> f32 {
    assert_eq!(actual.dims(), expected.dims(), "shape of {what}");
    let (actual, expected) = (values(actual), values(expected));
    assert!(actual.iter().all(|v| v.is_finite()), "{what} is not finite");
    let differences: Vec<f32> = actual.iter().zip(&expected).map(|(a, e)| a - e).collect();
    largest(&differences) / largest(&expected)
}

#[test]
fn every_stage_of_the_forward_pass_equals_transformers() {
    for case in cases() {
        let exact = case.stages(&case.exact());
        assert_eq!(exact.len(), 4, "{}: stages compared", case.name);
        let rounded = case.rounded().map(|model| case.stages(&model));
        case.compare(&exact, &rounded, "", FORWARD);
        // Nothing has amplified the rounding of the cross-attention.
        for stages in &rounded {
            let distance = distance(&stages["cross"], &case.golden["cross"], &case.name);
            assert!(distance <= FORWARD, "{}: cross: {distance:e}", case.name);
        }
    }
}

/// Whether the gradient is zero by algebra, so that transformers has only noise there: a constant added to all keys
/// shifts every row of logits and leaves the softmax as it is.
fn is_key_bias(name: &str) -> bool {
    name.ends_with("key.bias")
}

#[test]
fn every_gradient_equals_transformers() {
    for case in cases() {
        let golden = case.golden.keys().filter(|key| key.starts_with("grad/"));
        let mut exact = case.gradients(&case.exact());
        assert_eq!(exact.len(), golden.count(), "{}", case.name);
        let all = exact.values().map(|gradient| largest(&values(gradient)));
        let largest_of_all = all.fold(0.0, f32::max);
        let models = case.rounded();
        let rounded: Vec<_> = models
            .iter()
            .flat_map(|model| [case.gradients(model), case.recorded_gradients(model)])
            .collect();
        for (name, gradient) in exact.extract_if(|name, _| is_key_bias(name)) {
            let noise = largest(&values(&gradient));
            assert!(noise <= 1e-9 * largest_of_all, "{name}: {noise:e}");
            for gradients in &rounded {
                let noise = largest(&values(&gradients[&name]));
                assert!(noise <= 1e-4 * largest_of_all, "{name}: {noise:e}");
            }
        }
        case.compare(&exact, &rounded, "grad/", GRADIENT);
    }
}

#[test]
fn both_weight_files_have_the_same_bits() {
    for case in cases() {
        let directory = tempfile::tempdir().unwrap();
        let copy = |name: &str| {
            fs::copy(case.directory.join(name), directory.path().join(name)).unwrap();
        };
        copy("config.json");
        copy("pytorch_model.bin");
        let file = read_weights(directory.path()).unwrap();
        assert_eq!(file.path, directory.path().join("pytorch_model.bin"));
        let safetensors = read_weights(&case.directory).unwrap().tensors;
        assert_eq!(file.tensors.len(), safetensors.len(), "{}", case.name);
        for (name, tensor) in &safetensors {
            let other = &file.tensors[name];
            assert_eq!(tensor.dims(), other.dims(), "{}: {name}", case.name);
            if tensor.dtype() == DType::F32 {
                let bits = |tensor: &Tensor| values(tensor).into_iter().map(f32::to_bits);
                assert!(bits(tensor).eq(bits(other)), "{}: {name}", case.name);
            }
        }
        let images = &case.golden["pixel_values"];
        let logits = |directory: &Path| {
            let model = PerceiverIo::open(directory, &Device::Cpu).unwrap();
            values(&model.forward(images, Mode::Inference).unwrap())
        };
        assert_eq!(logits(directory.path()), logits(&case.directory));
    }
}

#[test]
fn the_configuration_names_the_classes() {
    for case in cases() {
        let text = fs::read(case.directory.join("config.json")).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert!(is_perceiver_io_config(&json));
        let architecture = json["architectures"][0].as_str().unwrap();
        assert_eq!(case.config.input.class(), architecture);
        let names = case.config.class_names();
        assert_eq!(names.len(), case.golden["logits"].dim(1).unwrap());
        assert_eq!(names[3], format!("kind 3, of {}", case.name));
    }
}

#[test]
fn weights_that_do_not_fit_are_errors_by_name() {
    for case in cases() {
        let config = &case.config;
        let refusal = |tensors| {
            let loaded = PerceiverIo::from_tensors(config, tensors, &Device::Cpu);
            loaded.map(drop).unwrap_err()
        };
        let name = "perceiver.encoder.cross_attention.attention.self.key.weight";
        let mut tensors = case.tensors();
        let key = tensors.remove(name).unwrap();
        let error = refusal(tensors);
        assert!(
            matches!(&error, ModelError::MissingWeight { name: found, .. } if found == name),
            "{error}"
        );
        let mut tensors = case.tensors();
        tensors.insert("perceiver.encoder.extra".to_string(), key.clone());
        let error = refusal(tensors);
        assert!(
            error.to_string().contains("perceiver.encoder.extra"),
            "{error}"
        );
        let mut tensors = case.tensors();
        tensors.insert(name.to_string(), key.narrow(0, 1, 3).unwrap());
        let error = refusal(tensors);
        assert!(
            matches!(&error, ModelError::WeightShape { name: found, .. } if found == name),
            "{error}"
        );
    }
}

#[test]
fn damaged_state_dicts_are_errors() {
    let case = &cases()[0];
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pytorch_model.bin");
    let whole = fs::read(case.directory.join("pytorch_model.bin")).unwrap();
    let refusal = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        let error = read_weights(directory.path()).unwrap_err();
        assert!(
            matches!(&error, ModelError::UnreadableStateDict { path: found, .. } if *found == path),
            "{error}"
        );
    };
    for length in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
        refusal(&whole[..length]);
    }
    // A changed value fails its checksum.
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    refusal(&changed);
}
