//! The command line: its output, its files and its errors.

use std::fs;
use std::path::Path;

use candle_core::Device;
use insta::assert_snapshot;
use perceiver_data::{Cifar, CifarRecord, Image, Labels, Split, shapes};
use perceiver_ops::Mode;
use perceiver_tests::program::{Sandbox, names_in, tiny};
use perceiver_train::{Checkpoint, Preset};
use serde_json::Value;

fn new_sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"))
}

/// Returns a sandbox with a model trained on shapes in `run`.
fn trained() -> Sandbox {
    let sandbox = new_sandbox();
    sandbox.succeed("train --preset quickstart --config tiny.toml --output run");
    sandbox
}

fn json(sandbox: &Sandbox, file: &str) -> Value {
    serde_json::from_slice(&fs::read(sandbox.path(file)).unwrap()).unwrap()
}

/// Runs a command that must fail with `code`, and returns its error message.
fn failure(sandbox: &Sandbox, arguments: &str, code: i32) -> String {
    let output = sandbox.run(arguments);
    assert_eq!(output.code, Some(code), "{arguments}: {}", output.err);
    assert!(!output.err.contains("panicked"), "{}", output.err);
    let first = output.err.find("error:").expect("an error message");
    output.err[first..].trim_end().to_string()
}

#[test]
fn help_explains_every_command() {
    let sandbox = new_sandbox();
    assert_snapshot!("help", sandbox.succeed("--help").out);
    for command in [
        "train",
        "evaluate",
        "predict",
        "embed",
        "similar",
        "report",
        "compare",
        "attention",
        "summary",
        "runs",
        "import-keras",
        "completions",
        "man",
    ] {
        let output = sandbox.succeed(&format!("{command} --help"));
        assert_snapshot!(format!("help-{command}"), output.out);
    }
}

#[test]
fn summary_counts_what_keras_counts() {
    let output = new_sandbox().succeed("summary --preset keras");
    assert!(output.out.contains("9,697,637"));
    assert_snapshot!("summary", output.out);
}

#[test]
fn errors_say_what_was_expected_and_what_to_do() {
    let sandbox = trained();
    sandbox.write("bad.toml", "[training\n");
    sandbox.write("unknown.toml", "[training]\nlearning_rat = 1.0\n");
    let failures = [
        ("train --dataset mnist", 2),
        ("train --dataset cifar100", 1),
        ("train --dataset cifar10 --labels coarse", 1),
        ("train --dataset folder:nowhere", 1),
        ("train --preset nope", 2),
        ("train --device gpu", 2),
        ("train --batch-size 0", 2),
        ("train --learning-rate -1", 2),
        ("train --config bad.toml", 2),
        ("train --config unknown.toml", 2),
        ("train --config missing.toml", 2),
        ("train --set model.foo=1", 2),
        ("train --set model.latent_dim=many", 2),
        ("train --set training.epochs=0", 2),
        ("train --set data.dataset=mnist", 2),
        ("train --set epochs", 2),
        ("train --resume run --set training.epochs=3", 2),
        ("summary --set model.patch_size=5", 2),
        ("train --limit-train 1", 2),
        ("train --output run", 1),
        ("train --resume nowhere", 2),
        ("train --resume run --epochs 1", 1),
        ("train --resume run --batch-size 3", 2),
        ("train --from-previous", 2),
        ("train --resume run --from-previous", 1),
        ("train --checkpoint-every 10h", 2),
        ("evaluate --checkpoint nowhere", 2),
        ("predict --checkpoint nowhere picture.png", 2),
        ("import-keras --weights nowhere --output out", 1),
    ];
    let messages = failures.map(|(arguments, code)| {
        format!(
            "$ perceiver {arguments}\n{}\n",
            failure(&sandbox, arguments, code)
        )
    });
    assert_snapshot!("errors", messages.join("\n"));
    assert!(
        !sandbox.path("runs").exists(),
        "a refused run leaves nothing behind"
    );
}

#[test]
fn runs_report_their_choices_and_write_the_documented_files() {
    let sandbox = new_sandbox();
    let output = sandbox.succeed("train --config tiny.toml --epochs 2");
    let mut lines = output.err.lines();
    let first = lines.next().unwrap();
    assert!(
        first.contains("no CIFAR-100 in data") && first.contains("cargo xtask fetch-data"),
        "{first}"
    );
    let second = lines.next().unwrap();
    assert!(
        second.contains("shapes (embedded), preset quickstart"),
        "{second}"
    );
    assert!(
        !output.err.contains('\x1b'),
        "colours or bars without a terminal: {}",
        output.err
    );

    let metrics =
        fs::read_to_string(sandbox.path("runs/shapes-quickstart-1/metrics.jsonl")).unwrap();
    let epochs: Vec<Value> = metrics
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(epochs.len(), 2);
    let keys: Vec<&String> = epochs[1].as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "acc",
            "epoch",
            "images_per_second",
            "learning_rate",
            "loss",
            "seconds",
            "top5_acc",
            "val_acc",
            "val_loss",
            "val_top5_acc"
        ]
    );
    let run = sandbox.path("runs/shapes-quickstart-1");
    let documented = [
        "config.json",
        "metrics.csv",
        "metrics.jsonl",
        "model.safetensors",
        "predictions.csv",
        "report.html",
        "results.json",
        "tensorboard",
        "training",
    ];
    assert_eq!(names_in(&run), documented);
    assert_eq!(
        names_in(&run.join("training")),
        [
            "environment.json",
            "recipe.toml",
            "state.previous.safetensors",
            "state.safetensors",
            "steps.csv"
        ]
    );
    let config = json(&sandbox, "runs/shapes-quickstart-1/config.json");
    assert_eq!(config["id2label"].as_object().unwrap().len(), 20);
    assert_eq!(config["data"]["train_images"], 60);
    assert_eq!(config["data"]["train_sha256"].as_str().unwrap().len(), 64);

    let again = sandbox.succeed("train --config tiny.toml");
    assert!(
        again.err.contains("runs/shapes-quickstart-2"),
        "{}",
        again.err
    );
}

#[test]
fn flags_override_the_file_and_the_file_overrides_the_preset() {
    let sandbox = new_sandbox();
    sandbox.write("more.toml", format!("{}seed = 3\n", tiny()));
    sandbox.succeed("train --preset quickstart --config more.toml --batch-size 30 --output run");
    let recipe = fs::read_to_string(sandbox.path("run/training/recipe.toml")).unwrap();
    let recipe: toml::Table = toml::from_str(&recipe).unwrap();
    assert_eq!(recipe["training"]["batch_size"].as_integer(), Some(30)); // from the flag
    assert_eq!(recipe["training"]["seed"].as_integer(), Some(3)); // from the file
    assert_eq!(recipe["data"]["dataset"].as_str(), Some("shapes")); // from the preset
}

#[test]
fn set_changes_any_field_and_overrides_everything() {
    let sandbox = new_sandbox();
    sandbox.succeed(
        "train --preset quickstart --config tiny.toml --epochs 2 --output run --set training.epochs=1 \
         --set training.optimizer.name=lamb --set model.ffn_units=[4,8] --set data.augmentation.zoom=0.3 \
         --set training.accumulate=2",
    );
    let recipe = fs::read_to_string(sandbox.path("run/training/recipe.toml")).unwrap();
    let recipe: toml::Table = toml::from_str(&recipe).unwrap();
    assert_eq!(recipe["training"]["epochs"].as_integer(), Some(1));
    assert_eq!(
        recipe["training"]["optimizer"]["name"].as_str(),
        Some("lamb")
    );
    assert_eq!(recipe["model"]["ffn_units"].as_array().unwrap().len(), 2);
    let zoom = recipe["data"]["augmentation"]["zoom"].as_float().unwrap();
    assert!((zoom - 0.3).abs() < 1e-6);
    // `accumulate` is an alias of `gradient_accumulation`.
    let training = recipe["training"].as_table().unwrap();
    assert_eq!(training["gradient_accumulation"].as_integer(), Some(2));
    assert!(!training.contains_key("accumulate"));
}

#[test]
fn summary_shows_a_changed_model() {
    let sandbox = new_sandbox();
    let changed = sandbox.succeed(
        "summary --preset quickstart --config tiny.toml --set model.num_transformer_blocks=3",
    );
    let first = changed.out.lines().next().unwrap();
    assert_eq!(
        first,
        "Perceiver, preset quickstart, tiny.toml, --set model.num_transformer_blocks=3"
    );
    sandbox.write("other.toml", tiny());
    let plain = sandbox.succeed("summary --preset quickstart --config other.toml");
    let rows = |text: &str| text.lines().count();
    assert!(rows(&changed.out) > rows(&plain.out), "{}", changed.out);
}

#[test]
fn quiet_leaves_warnings_and_results() {
    let output =
        new_sandbox().succeed("train --quiet --preset quickstart --config tiny.toml --output run");
    assert_eq!(output.err, "");
    assert!(
        output.out.starts_with("test results on shapes"),
        "{}",
        output.out
    );
}

#[test]
fn evaluate_reproduces_the_results_exactly() {
    let sandbox = trained();
    let output = sandbox.succeed("evaluate --checkpoint run --json");
    let results = fs::read_to_string(sandbox.path("run/results.json")).unwrap();
    assert_eq!(output.out, results);
    let results = json(&sandbox, "run/results.json");
    assert_eq!(results["images"], 20);
    let [low, high] = [0, 1].map(|i| results["acc_interval_95"][i].as_f64().unwrap());
    let acc = results["acc"].as_f64().unwrap();
    assert!(low <= acc && acc <= high && high - low < 0.6);
    let shown = sandbox.succeed("evaluate --checkpoint run").out;
    for (name, field) in [
        ("accuracy           ", "acc"),
        ("balanced accuracy  ", "balanced_acc"),
        ("macro F1           ", "macro_f1"),
    ] {
        let line = format!("\n  {name}{:.2}%", 100.0 * results[field].as_f64().unwrap());
        assert!(shown.contains(&line), "{line} in {shown}");
    }
}

#[test]
fn recipes_can_average_the_test_over_mirror_images() {
    let sandbox = new_sandbox();
    sandbox.succeed(
        "train --preset quickstart --config tiny.toml --output run --set data.test_time_flip=true",
    );
    let results = fs::read_to_string(sandbox.path("run/results.json")).unwrap();
    let evaluate = |flag: &str| {
        let arguments = format!("evaluate --checkpoint run --json {flag}");
        sandbox.succeed(&arguments).out
    };
    assert_eq!(evaluate(""), results);
    assert_eq!(evaluate("--flip-average"), results);
    assert_ne!(evaluate("--flip-average=false"), results);

    let test = shapes(Split::Test, Labels::Fine).unwrap();
    let image = &test.images()[0];
    let side = image.width();
    let mirrored = image
        .pixels()
        .chunks(side)
        .flat_map(|row| row.iter().rev().copied());
    let mirrored = Image::new(image.height(), side, mirrored.collect()).unwrap();
    image.write_png(sandbox.path("a.png")).unwrap();
    mirrored.write_png(sandbox.path("b.png")).unwrap();
    let classes = |flag: &str, file: &str| {
        let arguments = format!("predict --checkpoint run --json {flag} {file}");
        let line: Value = serde_json::from_str(&sandbox.succeed(&arguments).out).unwrap();
        let classes = line["classes"].as_array().unwrap().iter();
        let pairs = classes.map(|c| (c["class"].to_string(), c["probability"].as_f64().unwrap()));
        pairs.collect::<Vec<_>>()
    };
    let close = |flag| {
        let (a, b) = (classes(flag, "a.png"), classes(flag, "b.png"));
        let mut pairs = a.iter().zip(&b);
        pairs.all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-6)
    };
    assert!(close("") && close("--flip-average"));
    assert!(!close("--flip-average=false"));
}

#[test]
fn prediction_needs_only_the_checkpoint() {
    let sandbox = trained();
    fs::create_dir(sandbox.path("elsewhere")).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(
            sandbox.path("run").join(file),
            sandbox.path("elsewhere").join(file),
        )
        .unwrap();
    }
    fs::remove_dir_all(sandbox.path("run")).unwrap();
    let test = shapes(Split::Test, Labels::Fine).unwrap();
    test.images()[0]
        .write_png(sandbox.path("picture.png"))
        .unwrap();

    let table = sandbox
        .succeed("predict --checkpoint elsewhere picture.png --top-k 3")
        .out;
    assert_eq!(table.lines().count(), 1 + 3, "{table}");
    let line = sandbox
        .succeed("predict --checkpoint elsewhere picture.png --json")
        .out;
    let prediction: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(prediction["image"], "picture.png");
    let classes = prediction["classes"].as_array().unwrap();
    let probabilities: Vec<f64> = classes
        .iter()
        .map(|c| c["probability"].as_f64().unwrap())
        .collect();
    assert_eq!(probabilities.len(), 5);
    assert!(probabilities.is_sorted_by(|a, b| a >= b));

    let checkpoint = Checkpoint::open(sandbox.path("elsewhere"), &Device::Cpu).unwrap();
    let all = checkpoint.classify(&test.images()[..1]).unwrap();
    let highest = all[0].iter().copied().fold(0.0, f32::max);
    assert!((f64::from(highest) - probabilities[0]).abs() < 1e-6);
    assert!((all[0].iter().sum::<f32>() - 1.0).abs() < 1e-5);
}

#[test]
fn corrupt_images_are_reported_and_the_rest_is_predicted() {
    let sandbox = trained();
    let test = shapes(Split::Test, Labels::Fine).unwrap();
    for name in ["a.png", "c.png"] {
        test.images()[1].write_png(sandbox.path(name)).unwrap();
    }
    sandbox.write("b.png", "not a picture");
    let output = sandbox.run("predict --checkpoint run --json a.png b.png missing.png c.png");
    assert_eq!(output.code, Some(1));
    assert_eq!(output.out.lines().count(), 2, "{}", output.out);
    assert!(
        output.err.contains("b.png is not a readable image"),
        "{}",
        output.err
    );
    assert!(output.err.contains("missing.png"), "{}", output.err);
}

#[test]
fn damaged_checkpoints_are_rejected_by_name() {
    let sandbox = trained();
    let config = fs::read_to_string(sandbox.path("run/config.json")).unwrap();
    let weights = fs::read(sandbox.path("run/model.safetensors")).unwrap();
    let predict = |what: &str| {
        let message = failure(&sandbox, "predict --checkpoint run tiny.toml", 1);
        format!("{what}\n{message}\n")
    };
    // Returns the line of `id2label` with this class.
    let named = |class: &str| {
        let mut lines = config.lines();
        let ending = format!(": \"{class}\",");
        lines
            .find(|line| line.ends_with(&ending))
            .unwrap()
            .to_string()
    };
    let mut messages = Vec::new();
    for (what, damaged) in [
        ("config.json is no JSON", "{".to_string()),
        (
            "config.json is another model's",
            config.replace("perceiver-image-classification", "vit"),
        ),
        (
            "a class name is missing",
            config.replacen(&named("disc"), "", 1),
        ),
        (
            "the weights have another width",
            config.replacen("\"latent_dim\": 4", "\"latent_dim\": 5", 1),
        ),
        (
            "there is one more block",
            config.replacen(
                "\"num_transformer_blocks\": 1",
                "\"num_transformer_blocks\": 2",
                1,
            ),
        ),
        (
            "an impossible architecture",
            config.replacen("\"patch_size\": 8", "\"patch_size\": 0", 1),
        ),
    ] {
        assert_ne!(damaged, config, "{what}: nothing was changed");
        sandbox.write("run/config.json", damaged);
        messages.push(predict(what));
    }
    sandbox.write("run/config.json", &config);
    sandbox.write("run/model.safetensors", &weights[..weights.len() / 2]);
    messages.push(predict("model.safetensors is cut in half"));
    fs::remove_file(sandbox.path("run/model.safetensors")).unwrap();
    messages.push(predict("model.safetensors is missing"));
    assert_snapshot!("damaged_checkpoints", messages.join("\n"));
}

/// Returns an image of `height` by `width` pixels of one brightness, with a corner of another.
fn test_image(height: usize, width: usize, value: u8) -> Image {
    let mut pixels = vec![value; 3 * height * width];
    pixels[0] = 255 - value;
    Image::new(height, width, pixels).unwrap()
}

#[test]
fn an_image_folder_trains_and_predicts() {
    let sandbox = new_sandbox();
    for (class, value) in [("dark", 20), ("light", 230)] {
        fs::create_dir_all(sandbox.path("photos").join(class)).unwrap();
        for index in 0..12u8 {
            let extension = ["png", "jpg", "webp"][usize::from(index % 3)];
            let (width, height) = (40 - u32::from(index), 16 + u32::from(index));
            image::RgbImage::from_pixel(width, height, image::Rgb([value + index; 3]))
                .save(sandbox.path(format!("photos/{class}/{index}.{extension}")))
                .unwrap();
        }
    }
    let output = sandbox.succeed("train --dataset folder:photos --config tiny.toml --epochs 30 --learning-rate 0.01 --output run");
    assert!(output.out.contains("test results on"), "{}", output.out);
    let line = sandbox
        .succeed("predict --checkpoint run --json photos/dark/4.jpg")
        .out;
    let prediction: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(prediction["classes"][0]["class"], "dark");
    let output = sandbox.succeed("evaluate --checkpoint run --json");
    assert_eq!(
        output.out,
        fs::read_to_string(sandbox.path("run/results.json")).unwrap()
    );
}

/// Writes a CIFAR-100 of a few images to `data`.
fn write_cifar100(sandbox: &Sandbox) {
    let records: Vec<CifarRecord> = (0..40u8)
        .map(|index| CifarRecord {
            coarse: index % 2,
            fine: index % 4,
            image: test_image(32, 32, 50 * (index % 4)),
        })
        .collect();
    let names = |names: &[&str]| {
        names
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<String>>()
    };
    let data = sandbox.path("data");
    Cifar::Hundred.write(&data, Split::Train, &records).unwrap();
    Cifar::Hundred
        .write(&data, Split::Test, &records[..8])
        .unwrap();
    let (fine, coarse) = (names(&["a", "b", "c", "d"]), names(&["even", "odd"]));
    Cifar::Hundred.write_names(&data, &fine, &coarse).unwrap();
}

#[test]
fn cifar100_is_the_default_when_it_exists() {
    let sandbox = new_sandbox();
    write_cifar100(&sandbox);
    let output = sandbox.succeed("train --config tiny.toml --output fine");
    assert!(
        output
            .err
            .contains("cifar100 (found in the data directory), preset cifar100-cpu (CPU default)"),
        "{}",
        output.err
    );
    assert_eq!(
        json(&sandbox, "fine/config.json")["id2label"]
            .as_object()
            .unwrap()
            .len(),
        4
    );

    sandbox.succeed("train --config tiny.toml --labels coarse --output coarse");
    let config = json(&sandbox, "coarse/config.json");
    assert_eq!(
        config["id2label"],
        serde_json::json!({"0": "even", "1": "odd"})
    );
}

/// Writes the reference case of Keras as input files of `import-keras`, and returns its metadata.
fn write_keras_case(sandbox: &Sandbox) -> Value {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden");
    let facts: Value =
        serde_json::from_slice(&fs::read(golden.join("perceiver_small.json")).unwrap()).unwrap();
    fs::copy(
        golden.join("perceiver_small.safetensors"),
        sandbox.path("keras.safetensors"),
    )
    .unwrap();
    sandbox.write("architecture.json", facts["config"].to_string());
    sandbox.write("classes.txt", "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n");
    facts
}

const IMPORT: &str =
    "import-keras --weights keras.safetensors --mean 0,0,0 --variance 1,1,1 --classes classes.txt";

#[test]
fn imported_keras_weights_give_keras_logits() {
    let sandbox = new_sandbox();
    let facts = write_keras_case(&sandbox);
    let output = sandbox.succeed(&format!(
        "{IMPORT} --architecture architecture.json --output checkpoint"
    ));
    let count = facts["params"].as_u64().unwrap();
    assert!(
        output.out.replace(',', "").contains(&count.to_string()),
        "{}",
        output.out
    );

    let checkpoint = Checkpoint::open(sandbox.path("checkpoint"), &Device::Cpu).unwrap();
    let arrays =
        candle_core::safetensors::load(sandbox.path("keras.safetensors"), &Device::Cpu).unwrap();
    let images = arrays["input"]
        .permute((0, 3, 1, 2))
        .unwrap()
        .contiguous()
        .unwrap();
    let logits = checkpoint.model.forward(&images, Mode::Inference).unwrap();
    let flat = |tensor: &candle_core::Tensor| -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    };
    for (actual, expected) in flat(&logits).iter().zip(flat(&arrays["act/logits"])) {
        assert!(
            (actual - expected).abs() < 1e-4,
            "{actual} is not {expected}"
        );
    }
}

#[test]
fn mismatched_keras_weights_leave_no_files() {
    let sandbox = new_sandbox();
    write_keras_case(&sandbox);
    let other = fs::read_to_string(sandbox.path("architecture.json")).unwrap();
    sandbox.write(
        "other.json",
        other.replace("\"num_heads\":4", "\"num_heads\":2"),
    );
    sandbox.write("few.txt", "only one\n");
    let messages = [
        format!("{IMPORT} --output out"),
        format!("{IMPORT} --architecture other.json --output out"),
        format!(
            "{} --architecture architecture.json --output out",
            IMPORT.replace("classes.txt", "few.txt")
        ),
        "import-keras --weights keras.safetensors --architecture architecture.json --output out"
            .to_string(),
    ]
    .map(|arguments| {
        format!(
            "$ perceiver {arguments}\n{}\n",
            failure(&sandbox, &arguments, 1)
        )
    });
    assert_snapshot!("import_keras_errors", messages.join("\n"));
    assert!(!sandbox.path("out").exists());
}

#[test]
fn evaluation_on_other_classes_is_rejected() {
    let sandbox = trained();
    for class in 0..20 {
        fs::create_dir_all(sandbox.path(format!("photos/x{class:02}"))).unwrap();
        for index in 0..2 {
            let path = sandbox.path(format!("photos/x{class:02}/{index}.png"));
            test_image(8, 8, 9).write_png(&path).unwrap();
        }
    }
    let message = failure(
        &sandbox,
        "evaluate --checkpoint run --dataset folder:photos",
        1,
    );
    assert!(
        message.contains("expected images of the classes \"disc\"")
            && message.contains("found class \"x")
            && message.contains("and 19 more such classes"),
        "{message}"
    );
}

#[test]
fn the_file_sets_device_and_data_directory_too() {
    let sandbox = new_sandbox();
    write_cifar100(&sandbox);
    fs::rename(sandbox.path("data"), sandbox.path("elsewhere")).unwrap();
    let tiny = tiny();
    let elsewhere = tiny.replace("[data]", "[data]\ndata_dir = 'elsewhere'");
    sandbox.write("elsewhere.toml", elsewhere);
    let output = sandbox.succeed("train --config elsewhere.toml --output run");
    assert!(
        output
            .err
            .contains("cifar100 (found in the data directory)"),
        "{}",
        output.err
    );

    sandbox.write("gpu.toml", format!("{tiny}device = 'metal'\n"));
    let message = failure(&sandbox, "train --config gpu.toml", 1);
    assert!(message.contains("device metal"), "{message}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let sandbox = new_sandbox();
    let mut child = sandbox.command("summary").spawn().unwrap();
    drop(child.stdout.take()); // before the program starts to print
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// Even presets for hours of training on a GPU can run a moment on any machine, from the first
/// batch to the test results, in `bf16`.
#[test]
fn every_preset_trains_and_is_evaluated() {
    let sandbox = new_sandbox();
    for preset in Preset::ALL {
        let flags = "--dataset shapes --epochs 1 --limit-train 6 --limit-test 4 --batch-size 3 --precision bf16";
        let flags = match preset {
            // As a whole they take minutes a step on a CPU.
            Preset::PerceiverIoConv | Preset::PerceiverIoFourier | Preset::PerceiverIoLearned => {
                format!(
                    "{flags} --set model.num_blocks=1 --set model.num_latents=16 --set model.d_latents=64 --set model.image_size=32"
                )
            }
            _ => flags.to_string(),
        };
        let output = sandbox.succeed(&format!(
            "train --preset {preset} {flags} --output {preset}"
        ));
        assert!(
            output.out.contains("test results on shapes, 4 images"),
            "{}",
            output.out
        );
        let metrics = fs::read_to_string(sandbox.path(format!("{preset}/metrics.jsonl"))).unwrap();
        assert_eq!(metrics.lines().count(), 1, "{preset}");
    }
}
