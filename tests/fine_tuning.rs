//! Fine-tuning: frozen parameters, a first stage for the head alone, learning rates by layer, and Perceiver IO models, whose
//! runs are checkpoints of transformers.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{Device, Tensor};
use perceiver_data::{Dataset, LoadOptions, Samples, Source, Split};
use perceiver_model::{Architecture, ModelConfig, PerceiverIo, read_weights};
use perceiver_ops::Mode;
use perceiver_tests::program::{Sandbox, TINY_IO_MODEL, tiny_recipe};
use perceiver_train::{
    Checkpoint, CheckpointConfig, Control, Event, Preset, Recipe, RunDirectory,
    TestTimeAugmentation, TrainError, Trainer, TrainingData,
};

fn start(root: &Path, recipe: &Recipe) -> Result<Trainer, TrainError> {
    let data = TrainingData::load(recipe)?;
    let run = RunDirectory::create(root.join("run"))?;
    Trainer::start(recipe.clone(), data, run, Device::Cpu)
}

fn resume(root: &Path) -> Trainer {
    let run = RunDirectory::open(root.join("run")).unwrap();
    let recipe = Recipe::read(run.recipe()).unwrap();
    let data = TrainingData::load(&recipe).unwrap();
    Trainer::resume(recipe, data, run, Device::Cpu).unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

fn all_bits(trainer: &Trainer) -> HashMap<String, Vec<u32>> {
    let tensors = trainer.parameters().tensors().into_iter();
    tensors
        .map(|(name, tensor)| (name, bits(&tensor)))
        .collect()
}

/// The names of the parameters that training changes by more than `least`.
fn changed_by(least: f32, changes: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let mut trainer = start(directory.path(), &tiny_recipe(changes)).unwrap();
    let before = all_bits(&trainer);
    trainer.fit(&mut ()).unwrap();
    let after = all_bits(&trainer);
    let mut names: Vec<String> = before
        .into_iter()
        .filter(|(name, bits)| {
            let pairs = bits.iter().zip(&after[name]);
            let mut changes = pairs.map(|(a, b)| (f32::from_bits(*a) - f32::from_bits(*b)).abs());
            changes.any(|change| change > least)
        })
        .map(|(name, _)| name)
        .collect();
    names.sort();
    names
}

/// The names of the parameters that training changes.
fn changed(changes: &str) -> Vec<String> {
    changed_by(0.0, changes)
}

#[test]
fn frozen_parameters_keep_their_bits() {
    let all = changed("");
    let with = |prefix: &str| all.iter().any(|name| name.starts_with(prefix));
    assert!(with("encoder.") && with("latents") && with("head."));
    let some = changed("training.freeze = ['encoder', 'latents']");
    let is_frozen = |name: &&String| name.starts_with("encoder.") || *name == "latents";
    let expected: Vec<&String> = all.iter().filter(|name| !is_frozen(name)).collect();
    assert_eq!(some.iter().collect::<Vec<_>>(), expected);
    let head = changed("training.head_epochs = 1");
    assert!(!head.is_empty() && head.iter().all(|name| name.starts_with("head.")));
    // In every way of computing gradients.
    for changes in [
        "training.precision = 'bf16'",
        "training.gradient_accumulation = 2",
        "training.parallel_micro_batches = 2",
        "training.activation_checkpointing = true",
        "training.ema_decay = 0.9",
    ] {
        let changes = format!("{changes}\ntraining.freeze = ['encoder', 'latents']");
        assert_eq!(changed(&changes), some, "{changes}");
    }
}

#[test]
fn prefixes_that_freeze_nothing_or_everything_are_errors() {
    let refused = |changes: &str| {
        let directory = tempfile::tempdir().unwrap();
        let started = start(directory.path(), &tiny_recipe(changes));
        started.map(drop).unwrap_err().to_string()
    };
    let error = refused("training.freeze = ['encodr']");
    let expected = "training.freeze: expected prefixes of parameters, such as cross_attention, encoder, head, latents, transformer, found \"encodr\"";
    assert!(error.contains(expected), "{error}");
    let error = refused(
        "training.freeze = ['encoder', 'latents', 'cross_attention', 'transformer', 'head']",
    );
    assert!(error.contains("found all frozen"), "{error}");
    let error = refused("training.head_epochs = 1\ntraining.freeze = ['head']");
    assert!(error.contains("found all frozen"), "{error}");
}

/// Interrupted after any step, in either stage or between them, the resumed run has the bits of an
/// uninterrupted one.
#[test]
fn stages_resume_to_the_bit() {
    let recipe = tiny_recipe(
        "training.epochs = 3\ntraining.head_epochs = 1\ntraining.ema_decay = 0.9\ntraining.layer_decay = 0.5",
    );
    let whole = tempfile::tempdir().unwrap();
    let mut trainer = start(whole.path(), &recipe).unwrap();
    let steps = 3 * trainer.steps_per_epoch();
    trainer.fit(&mut ()).unwrap();
    let expected = all_bits(&trainer);
    for step in 1..steps {
        let directory = tempfile::tempdir().unwrap();
        let interrupt = AtomicBool::new(false);
        let mut done = 0;
        let mut callback = |event: &Event<'_>| {
            if let Event::Step { .. } = event {
                done += 1;
                interrupt.store(done == step, Ordering::Relaxed);
            }
            Ok(Control::Continue)
        };
        let mut trainer = start(directory.path(), &recipe).unwrap();
        trainer.fit_until(&mut callback, &interrupt).unwrap();
        drop(trainer);
        let mut trainer = resume(directory.path());
        trainer.fit(&mut ()).unwrap();
        assert!(
            all_bits(&trainer) == expected,
            "interrupted after step {step}"
        );
    }
}

/// With a factor near 0, only the last layer has a learning rate.
#[test]
fn early_layers_learn_less_with_layer_decay() {
    let only = "training.optimizer.name = 'sgd'\ntraining.optimizer.weight_decay = 0.0\ntraining.layer_decay = 1e-30";
    let changed = changed_by(1e-12, only);
    assert!(changed.iter().any(|name| name.starts_with("head.")));
    assert!(
        changed.iter().all(|name| name.starts_with("head.")),
        "{changed:?}"
    );
}

/// A run of a Perceiver IO is a checkpoint of transformers; it is evaluated as it was tested.
#[test]
fn a_perceiver_io_is_trained_resumed_and_opened() {
    for input in ["fourier", "learned", "conv"] {
        let directory = tempfile::tempdir().unwrap();
        let recipe = tiny_recipe(&format!(
            "{TINY_IO_MODEL}input = '{input}'\n[training]\nepochs = 2"
        ));
        let mut trainer = start(directory.path(), &recipe).unwrap();
        let before = all_bits(&trainer);
        let interrupt = AtomicBool::new(true);
        trainer.fit_until(&mut (), &interrupt).unwrap();
        drop(trainer);
        let mut trainer = resume(directory.path());
        trainer.fit(&mut ()).unwrap();
        let after = all_bits(&trainer);
        for (name, bits) in &before {
            // A constant added to all keys shifts the logits of a query, and changes no weight.
            if !name.ends_with("key.bias") {
                let is_buffer = name.contains(".running_");
                assert_eq!(after[name] == *bits, is_buffer, "{input}: {name}");
            }
        }
        let options = LoadOptions {
            limit: Some(20),
            ..recipe.load_options()
        };
        let test: Samples = Source::Shapes.load(Split::Test, &options).unwrap().into();
        let results = trainer.test(&test, &mut ()).unwrap();

        let run = directory.path().join("run");
        let config: serde_json::Value =
            serde_json::from_slice(&fs::read(run.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["model_type"], "perceiver");
        assert_eq!(config["id2label"].as_object().unwrap().len(), 20);
        let checkpoint = Checkpoint::open(&run, &Device::Cpu).unwrap();
        assert_eq!(checkpoint.config.model, trainer.recipe().model);
        let evaluation = perceiver_train::evaluate(
            &*checkpoint.model,
            TestTimeAugmentation::None,
            &test,
            &checkpoint.config.preprocessing,
            &Device::Cpu.into(),
            &mut |_, _| (),
        );
        let means = evaluation.unwrap().sums.means();
        assert_eq!(means.loss.to_bits(), results.loss.to_bits());

        // Without what transformers does not know, it is the same model.
        let model = PerceiverIo::open(&run, &Device::Cpu).unwrap();
        let images = Tensor::rand(-1f32, 1.0, (2, 3, 16, 16), &Device::Cpu).unwrap();
        let logits = |logits: Result<Tensor, _>| bits(&logits.unwrap());
        assert_eq!(
            logits(model.forward(&images, Mode::Inference)),
            logits(checkpoint.model.forward(&images, Mode::Inference)),
        );
        let text = fs::read(run.join("preprocessor_config.json")).unwrap();
        let preprocessor: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            preprocessor["image_processor_type"],
            "PerceiverImageProcessor"
        );
        assert_eq!(preprocessor["size"]["height"], 16);
        let count = "perceiver.input_preprocessor.convnet.batchnorm.num_batches_tracked";
        let tensors = read_weights(&run).unwrap().tensors;
        assert_eq!(tensors.contains_key(count), input == "conv");
        assert_eq!(tensors.len() - usize::from(input == "conv"), after.len());
    }
}

/// From a checkpoint as transformers writes it: its preprocessing and weights are taken, and the
/// last layer is new.
#[test]
fn a_checkpoint_of_transformers_is_fine_tuned() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/perceiver_io/fourier");
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    let base = sandbox.path("base");
    fs::create_dir(&base).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture.join(file), base.join(file)).unwrap();
    }
    // A quarter of the size, for speed.
    let preprocessor =
        r#"{"size": 56, "crop_size": 64, "image_processor_type": "PerceiverImageProcessor"}"#;
    fs::write(base.join("preprocessor_config.json"), preprocessor).unwrap();
    let flags = "--dataset shapes --set data.limit_train=24 --set data.limit_test=8 --epochs 2 --set training.head_epochs=1 --set training.batch_size=8";
    let stderr = sandbox
        .succeed(&format!(
            "train --preset finetune --init-from base --output run {flags}"
        ))
        .err;
    assert!(
        stderr.contains("new classification head: the 20 classes differ from the checkpoint's"),
        "{stderr}"
    );
    let config = CheckpointConfig::read(sandbox.path("run/config.json")).unwrap();
    let steps = config.preprocessing.transformers.clone().unwrap();
    assert_eq!(steps.size.height, 56);
    assert_eq!(config.model.num_classes(), 20);
    let [own, theirs] = ["run", "base"].map(|run| read_weights(sandbox.path(run)).unwrap().tensors);
    let names = |tensors: &HashMap<String, Tensor>| {
        let mut names: Vec<String> = tensors.keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(names(&own), names(&theirs));

    let evaluated = sandbox.succeed("evaluate run --json").out;
    let results = fs::read_to_string(sandbox.path("run/results.json")).unwrap();
    let [evaluated, results]: [serde_json::Value; 2] =
        [&evaluated, &results].map(|text| serde_json::from_str(text).unwrap());
    assert_eq!(evaluated["loss"], results["loss"]);
    let summary = sandbox.succeed("summary run").out;
    assert!(
        summary.contains("perceiver.encoder.cross_attention"),
        "{summary}"
    );
    sandbox.succeed("report run");
    let ModelConfig::PerceiverIo(_) = config.model else {
        panic!("{:?}", config.model);
    };
}

/// The images of some of the 20 shapes, `per_class` of each.
fn shapes(split: Split, classes: std::ops::Range<u32>, per_class: usize) -> Dataset {
    const SHAPES: usize = 20; // which alternate
    let options = LoadOptions {
        limit: Some(SHAPES * per_class),
        ..LoadOptions::default()
    };
    let all = Source::Shapes.load(split, &options).unwrap();
    let wanted = all.images().iter().zip(all.labels());
    let wanted = wanted.filter(|(_, label)| classes.contains(label));
    let (images, labels) = wanted
        .map(|(image, label)| (image.clone(), label - classes.start))
        .unzip();
    let names = classes.map(|class| all.classes()[class as usize].clone());
    Dataset::new("some shapes", images, labels, names.collect()).unwrap()
}

/// A Perceiver IO that has learned 15 shapes learns the other five from 10 images of each, at least 15 points better than
/// one from scratch. Takes minutes: `cargo test -p perceiver-tests --test fine_tuning -- --ignored --nocapture`.
#[test]
#[ignore = "takes minutes"]
fn pretraining_beats_training_from_scratch() {
    const MODEL: &str = r#"
        [model]
        type = "perceiver-io"
        input = "fourier"
        image_size = 16
        num_latents = 16
        d_latents = 64
        num_blocks = 2
        num_self_attends_per_block = 2
        num_self_attention_heads = 4
        num_cross_attention_heads = 1
        attention_probs_dropout_prob = 0.0
        initializer_range = 0.1
        [data]
        antialias = true
        [data.augmentation]
        zoom = 0.1
    "#;
    let train = |root: &Path, from: Option<&Checkpoint>, data: Dataset, changes: &str| {
        let layers = [
            ("quickstart", Preset::Quickstart.toml()),
            ("model", MODEL),
            ("own", changes),
        ];
        let recipe = Recipe::from_layers(&layers).unwrap();
        let data = TrainingData::new(data, &recipe).unwrap();
        let run = RunDirectory::create(root).unwrap();
        let mut trainer = match from {
            None => Trainer::start(recipe, data, run, Device::Cpu).unwrap(),
            Some(checkpoint) => {
                let mut recipe = recipe;
                recipe.data.normalization =
                    Some(checkpoint.config.preprocessing.normalization.clone());
                Trainer::start_from(checkpoint, recipe, data, run, Device::Cpu)
                    .unwrap()
                    .0
            }
        };
        trainer.fit(&mut ()).unwrap();
        trainer
    };
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let pretraining =
        "training.epochs = 30\ntraining.learning_rate = 0.002\ntraining.batch_size = 64";
    let trainer = train(
        &path("base"),
        None,
        shapes(Split::Train, 0..15, 200),
        pretraining,
    );
    let test: Samples = shapes(Split::Test, 0..15, 20).into();
    let known = trainer.test(&test, &mut ()).unwrap().acc;
    drop(trainer);
    let checkpoint = Checkpoint::open(path("base"), &Device::Cpu).unwrap();
    let test: Samples = shapes(Split::Test, 15..20, 40).into();
    for seed in 0..3 {
        let common = format!(
            "training.seed = {seed}\ntraining.epochs = 40\ntraining.batch_size = 10\ntraining.early_stopping.patience = 40\n"
        );
        let few = || shapes(Split::Train, 15..20, 10);
        let fine = format!(
            "{common}training.learning_rate = 0.001\ntraining.head_epochs = 5\ntraining.layer_decay = 0.8"
        );
        let fine = train(
            &path(&format!("fine{seed}")),
            Some(&checkpoint),
            few(),
            &fine,
        )
        .test(&test, &mut ())
        .unwrap()
        .acc;
        // The better of two learning rates.
        let scratch = ["0.001", "0.003"].map(|rate| {
            let changes = format!("{common}training.learning_rate = {rate}");
            let trainer = train(
                &path(&format!("scratch{seed}-{rate}")),
                None,
                few(),
                &changes,
            );
            trainer.test(&test, &mut ()).unwrap().acc
        });
        let scratch = scratch[0].max(scratch[1]);
        println!(
            "seed {seed}: pretrained on 15 shapes ({:.1}% on these), five others: {:.1}% fine-tuned, {:.1}% from scratch",
            100.0 * known,
            100.0 * fine,
            100.0 * scratch
        );
        assert!(fine >= scratch + 0.15);
    }
}
