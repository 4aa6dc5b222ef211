//! `perceiver export`, and its crate: exported files, run in another engine (tract), give the results
//! of the model, for every option of both kinds of models.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use perceiver_export::{
    ExportError, ExportOptions, OnnxMetadata, OnnxModel, OnnxPrecision, run_in_tract,
};
use perceiver_model::{
    Architecture, AttentionForm, AttentionWidth, Classifier, InputKind, ModelConfig, Parameters,
    PerceiverConfig, PerceiverIoConfig, Positions, Sharing,
};
use perceiver_ops::{Mode, RngKey, softmax};
use perceiver_tests::program::{Sandbox, names_in};

/// Returns a random number from -1 to 1.
fn value(key: RngKey, at: u64) -> f32 {
    (key.bits(at) >> 40) as f32 / 8_388_608.0 - 1.0
}

/// Returns images of a model, `[batch, channels, size, size]`.
fn images(model: &ModelConfig, batch: usize) -> Tensor {
    let (size, channels) = (model.image_size(), model.channels());
    let count = (batch * channels * size * size) as u64;
    let values = (0..count).map(|at| 1.7 * value(RngKey::new(9), at));
    let images = Tensor::from_iter(values, &Device::Cpu).unwrap();
    images.reshape((batch, channels, size, size)).unwrap()
}

/// Returns random parameters that differ from initial ones in biases and norms too.
fn parameters(model: &ModelConfig, seed: u64) -> Parameters {
    let initial = Parameters::from_seed(model, seed, &Device::Cpu).unwrap();
    let moved = initial.tensors().into_iter().map(|(name, tensor)| {
        let key = RngKey::new(seed).fold_in_name(&name);
        let noise = (0..tensor.elem_count() as u64).map(|at| 0.1 * value(key, at));
        let noise = Tensor::from_iter(noise, &Device::Cpu).unwrap();
        let moved = (&tensor + noise.reshape(tensor.shape()).unwrap()).unwrap();
        // Variances are not negative.
        let moved = if name.ends_with("running_var") {
            moved.abs().unwrap()
        } else {
            moved
        };
        (name, moved.detach())
    });
    let tensors: HashMap<String, Tensor> = moved.collect();
    Parameters::from_tensors(model, tensors, &Device::Cpu).unwrap()
}

/// Returns the largest difference as a share of the largest entry of `expected`.
fn distance(found: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(found.dims(), expected.dims());
    let most = |tensor: &Tensor| {
        let largest = tensor.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        largest.to_scalar::<f32>().unwrap()
    };
    most(&(found - expected).unwrap()) / most(expected)
}

/// Exports a model and compares its results in tract for three images.
fn assert_equal(model: &ModelConfig, options: &ExportOptions, tolerance: f32, what: &str) {
    let parameters = parameters(model, 3);
    let metadata = OnnxMetadata::default();
    let exported = OnnxModel::new(model, &parameters, options, &metadata).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.onnx");
    exported.write(&path).unwrap();
    let ours = parameters.inference_model(model).unwrap();
    let images = images(model, 3);
    let mut expected = ours.forward(&images, Mode::Inference).unwrap();
    if options.flip_average {
        let mirrored = images.flip(&[3]).unwrap();
        let mirrored = ours.forward(&mirrored, Mode::Inference).unwrap();
        let both = [expected, mirrored].map(|logits| softmax(&logits).unwrap());
        let mean = ((&both[0] + &both[1]).unwrap() / 2.0).unwrap();
        expected = if options.softmax {
            mean
        } else {
            mean.log().unwrap()
        };
    } else if options.softmax {
        expected = softmax(&expected).unwrap();
    }
    let found = run_in_tract(&path, &images).unwrap_or_else(|error| panic!("{what}: {error}"));
    let distance = distance(&found, &expected);
    assert!(distance < tolerance, "{what}: {distance}");
}

fn assert_logits_equal(model: &ModelConfig, what: &str) {
    assert_equal(model, &ExportOptions::default(), 1e-4, what);
}

fn small() -> PerceiverConfig {
    PerceiverConfig {
        image_size: 16,
        patch_size: 4,
        latent_dim: 5,
        projection_dim: 16,
        num_heads: 2,
        head_dim: 8,
        num_transformer_blocks: 2,
        num_iterations: 3,
        ffn_units: vec![24, 16],
        classifier_units: vec![12, 7],
        cross_attention_scale: 0.0,
        ..PerceiverConfig::default()
    }
}

/// What an option is called, and how it changes the small model.
type Case = (&'static str, fn(&mut PerceiverConfig));

const CASES: [Case; 16] = [
    ("the small model", |_| ()),
    ("stem", |c| {
        (c.stem_units, c.patch_size) = (vec![6, 10], 1);
    }),
    ("stem with pooling", |c| {
        (c.stem_units, c.stem_pooling, c.patch_size) = (vec![6, 20], true, 1);
    }),
    ("stem with residual blocks", |c| {
        (c.stem_units, c.stem_blocks, c.patch_size) = (vec![6, 20], 2, 1);
    }),
    ("stem, and patches of an odd size", |c| {
        (c.stem_units, c.patch_size, c.image_size) = (vec![5], 3, 18);
    }),
    ("Fourier positions", |c| {
        (c.positions, c.fourier_bands) = (Positions::Fourier, 3);
    }),
    ("cross-attention heads", |c| c.num_cross_heads = 4),
    ("one cross-attention", |c| c.num_cross_attends = 1),
    ("its own weights of the first cross-attention", |c| {
        c.sharing = Sharing::AllButFirstCross;
    }),
    ("no sharing", |c| {
        (c.sharing, c.num_cross_attends) = (Sharing::None, 2);
    }),
    ("wide heads", |c| (c.head_dim, c.num_heads) = (0, 3)),
    ("a normalized mean", |c| {
        (c.norm_pooled, c.layer_norm_epsilon) = (true, 1e-3);
    }),
    ("no transformer", |c| c.num_transformer_blocks = 0),
    ("single layers", |c| {
        (c.ffn_units, c.classifier_units) = (vec![16], vec![4]);
    }),
    ("one head, one channel", |c| {
        (c.num_heads, c.channels) = (1, 1);
    }),
    ("many latents and few tokens", |c| {
        (c.image_size, c.latent_dim, c.num_cross_heads) = (8, 40, 2);
    }),
];

#[test]
fn every_option_of_a_perceiver_gives_the_same_logits() {
    for (what, change) in CASES {
        let mut config = small();
        change(&mut config);
        assert_logits_equal(&config.into(), what);
    }
}

#[test]
fn every_option_of_a_perceiver_io_gives_the_same_logits() {
    let small = |input| PerceiverIoConfig {
        input,
        num_latents: 5,
        d_latents: 12,
        num_blocks: 2,
        num_self_attends_per_block: 2,
        num_self_attention_heads: 3,
        num_cross_attention_heads: 1,
        image_size: 12,
        num_labels: Some(6),
        initializer_range: 0.1,
        ..PerceiverIoConfig::default()
    };
    for input in [InputKind::Learned, InputKind::Fourier, InputKind::Conv] {
        let config = small(input);
        assert_eq!(config.encoder_form(), AttentionForm::Absorbed);
        assert_logits_equal(&config.into(), &format!("{input:?}"));
        let other = PerceiverIoConfig {
            num_cross_attention_heads: 2,
            qk_channels: Some(6),
            v_channels: Some(12),
            num_self_attention_heads: 2,
            self_attention_widening_factor: 2,
            cross_attention_widening_factor: 3,
            cross_attention_shape_for_attention: AttentionWidth::Q,
            hidden_act: "gelu_new".to_string(),
            use_query_residual: false,
            image_size: 13,
            ..small(input)
        };
        assert_eq!(other.encoder_form(), AttentionForm::Direct);
        assert_logits_equal(&other.into(), &format!("{input:?} with other options"));
    }
}

#[test]
fn products_of_weights_are_constants_where_that_is_cheaper() {
    let names = |config: PerceiverConfig| {
        let forms = config.cross_attention_forms();
        let model = config.into();
        let parameters = parameters(&model, 1);
        let options = ExportOptions::default();
        let exported = OnnxModel::new(&model, &parameters, &options, &OnnxMetadata::default());
        let bytes = exported.unwrap().to_bytes();
        let has = |name: &str| {
            bytes
                .windows(name.len())
                .any(|part| part == name.as_bytes())
        };
        let products = has("cross_attention.query_key.weight");
        assert_ne!(products, has("cross_attention.key.weight"));
        (forms[0], products)
    };
    let absorbed = PerceiverConfig {
        image_size: 32,
        ..small()
    };
    assert_eq!(names(absorbed), (AttentionForm::Absorbed, true));
    let direct = PerceiverConfig {
        num_cross_heads: 4,
        latent_dim: 40,
        ..small()
    };
    assert_eq!(names(direct), (AttentionForm::Direct, false));
}

#[test]
fn softmax_mirror_images_and_half_precision() {
    let model = small().into();
    for (softmax, flip_average) in [(true, false), (false, true), (true, true)] {
        let options = ExportOptions {
            softmax,
            flip_average,
            ..ExportOptions::default()
        };
        assert_equal(&model, &options, 1e-4, &format!("{softmax} {flip_average}"));
    }
    let half = ExportOptions {
        precision: OnnxPrecision::F16,
        ..ExportOptions::default()
    };
    assert_equal(&model, &half, 1e-2, "f16");
}

#[test]
fn weights_beyond_the_limit_go_to_a_second_file() {
    let model = small().into();
    let parameters = parameters(&model, 3);
    let options = ExportOptions::default();
    let exported = OnnxModel::new(&model, &parameters, &options, &OnnxMetadata::default());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.onnx");
    let paths = exported.unwrap().write_within(&path, 20_000).unwrap();
    assert_eq!(
        names_in(directory.path()),
        ["model.onnx", "model.onnx.data"]
    );
    let sizes = paths.iter().map(|path| fs::metadata(path).unwrap().len());
    let sizes: Vec<u64> = sizes.collect();
    assert!(sizes[1] > 20_000, "{sizes:?}");
    let images = images(&model, 2);
    let ours = parameters.inference_model(&model).unwrap();
    let expected = ours.forward(&images, Mode::Inference).unwrap();
    let found = run_in_tract(&path, &images).unwrap();
    assert!(distance(&found, &expected) < 1e-4);
}

/// A model of a program's own.
#[derive(Clone, Debug, serde::Serialize)]
struct Own;

#[derive(Debug)]
struct OwnModel;

impl Architecture for Own {
    type Model = OwnModel;

    fn name(&self) -> &'static str {
        "own"
    }
    fn image_size(&self) -> usize {
        8
    }
    fn num_classes(&self) -> usize {
        2
    }
    fn with_num_classes(self, _: usize) -> Self {
        self
    }
    fn build(&self, vb: VarBuilder) -> perceiver_model::Result<OwnModel> {
        vb.get(2, "head.bias")?;
        Ok(OwnModel)
    }
}

impl Classifier for OwnModel {
    fn forward(&self, images: &Tensor, _: Mode) -> perceiver_model::Result<Tensor> {
        Ok(Tensor::zeros(
            (images.dim(0)?, 2),
            DType::F32,
            &Device::Cpu,
        )?)
    }
    fn num_classes(&self) -> usize {
        2
    }
}

#[test]
fn models_of_other_programs_are_refused() {
    let model = ModelConfig::custom(Own);
    let parameters = Parameters::from_seed(&model, 0, &Device::Cpu).unwrap();
    let options = ExportOptions::default();
    let error = OnnxModel::new(&model, &parameters, &options, &OnnxMetadata::default());
    let error = error.unwrap_err();
    assert!(matches!(&error, ExportError::UnknownModel { found } if found == "own"));
    assert!(
        error.to_string().contains("perceiver, perceiver-io"),
        "{error}"
    );
}

/// A sandbox with the checkpoint `run` of a model that was trained for one epoch.
fn trained() -> Sandbox {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    let _ = sandbox.succeed("train --preset quickstart --config tiny.toml --output run");
    sandbox
}

#[test]
fn the_program_exports_and_verifies() {
    let sandbox = trained();
    let output = sandbox.succeed("export --checkpoint run --output model.onnx --license mit");
    let (written, verified) = output.out.split_once('\n').unwrap();
    assert_eq!(written, "model.onnx: opset 17, 86 nodes, f32, 0.0 MB");
    let start = "verified in tract at batch sizes 1 and 3: differences up to ";
    assert!(verified.starts_with(start), "{verified}");

    let bytes = fs::read(sandbox.path("model.onnx")).unwrap();
    let has = |text: &str| {
        bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    };
    let weights = fs::read(sandbox.path("run/model.safetensors")).unwrap();
    let header = String::from_utf8_lossy(&weights[8..]);
    let sum = header.split(r#""sha256":""#).nth(1).unwrap();
    for text in [
        "weights_sha256",
        &sum[..64],
        "license",
        "mit",
        "classes",
        "preprocessing",
    ] {
        assert!(has(text), "{text}");
    }

    let more = "--with-preprocessing --softmax --flip-average --precision f16 --samples s";
    let output = sandbox.succeed(&format!(
        "export --checkpoint run --output half.onnx {more}"
    ));
    assert!(output.out.contains(", f16, "), "{}", output.out);
    assert!(
        output.out.contains("of the largest result; 1e-2 and"),
        "{}",
        output.out
    );
    let samples = candle_core::safetensors::load(sandbox.path("s"), &Device::Cpu).unwrap();
    assert_eq!(samples["input.1"].dims(), [1, 9, 19, 3]);
    assert_eq!(samples["output.17"].dims(), [17, 20]);
    assert_eq!(samples["exact.3"].dims(), [3, 20]);
    let unverified = "export --checkpoint run --output quick.onnx --no-verify";
    assert_eq!(sandbox.succeed(unverified).out.lines().count(), 1);
}

#[test]
fn errors_of_the_program_name_the_flag_and_leave_no_file() {
    let sandbox = trained();
    sandbox.write("there.onnx", "");
    let fails = |arguments: &str, code: i32, expected: &str| {
        let output = sandbox.run(&format!("export --checkpoint {arguments}"));
        assert_eq!(output.code, Some(code), "{}", output.err);
        assert!(output.err.contains(expected), "{arguments}: {}", output.err);
    };
    let exists = "--output there.onnx: expected no such file, found one";
    fails("run --output there.onnx", 2, exists);
    let folder = "--output none/a.onnx: expected a file in an existing directory";
    fails("run --output none/a.onnx", 2, folder);
    fails(
        "run --output a.onnx --precision bf16",
        2,
        "expected f32 or f16, found \"bf16\"",
    );
    fails(
        "run --output a.onnx --license MIT!",
        2,
        "expected an identifier such as mit",
    );
    fails(
        "run --output a.onnx --samples there.onnx",
        2,
        "--samples there.onnx: expected no such",
    );
    fails("nothing --output a.onnx", 2, "--checkpoint nothing");
    fails("run", 2, "--output <FILE>");

    let config = sandbox.path("run/config.json");
    let text = fs::read_to_string(&config).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["model"] = serde_json::json!({"type": "resnet", "depth": 18});
    fs::write(&config, value.to_string()).unwrap();
    fails(
        "run --output a.onnx",
        1,
        "expected perceiver, perceiver-io, found \"resnet\"",
    );
    assert!(!sandbox.path("a.onnx").exists());
}

/// As root, every directory can be written to.
#[cfg(unix)]
#[test]
fn unwritable_directories_are_errors() {
    use std::os::unix::fs::PermissionsExt;

    let sandbox = trained();
    sandbox.write("locked/file", "");
    let locked = sandbox.path("locked");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o500)).unwrap();
    if fs::write(locked.join("probe"), "").is_ok() {
        eprintln!("skipped: this user can write to every directory");
        return;
    }
    let output = sandbox.run("export --checkpoint run --output locked/a.onnx");
    assert_eq!(output.code, Some(1));
    assert!(
        output.err.contains("--output: cannot write locked/a.onnx"),
        "{}",
        output.err
    );
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(names_in(&locked), ["file"]);
}

/// The checkpoint of transformers in the fixtures, with its preprocessing inside.
#[test]
fn checkpoints_of_transformers_are_exported() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/perceiver_io/fourier");
    for file in ["config.json", "model.safetensors"] {
        sandbox.write(
            &format!("io/{file}"),
            fs::read(fixtures.join(file)).unwrap(),
        );
    }
    // Fewer pixels than transformers' 224.
    let steps =
        r#"{"size": {"height": 28, "width": 28}, "crop_size": {"height": 32, "width": 32}}"#;
    sandbox.write("io/preprocessor_config.json", steps);
    let arguments = "export --checkpoint io --output io.onnx --with-preprocessing --softmax";
    let output = sandbox.succeed(arguments);
    assert!(output.out.contains("verified in tract"), "{}", output.out);
}
