//! Runs are a function of recipe and data: one seed gives the same bits on any number of threads,
//! and however often the run is killed, resumed and extended.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use candle_core::Device;
use perceiver_ops::RngKey;
use perceiver_tests::program::names_in;
use perceiver_tests::run::{Run, finished, several_epochs};
use perceiver_train::{
    Callback, CallbackResult, Callbacks, Control, EpochMetrics, Event, MetricsFile, Outcome,
    Preset, Recipe, RunDirectory, TrainError, Trainer, TrainingData,
};

fn new_run(training: &str) -> Run {
    Run::new(env!("CARGO_BIN_EXE_perceiver-under-test"), training)
}

/// Returns a finished run that was never interrupted.
fn undisturbed(training: &str) -> Run {
    let run = new_run(training);
    finished(run.start());
    run
}

#[test]
fn a_seed_gives_the_same_bits_on_one_and_two_threads() {
    let [one, two] = ["1", "2"].map(|threads| {
        let run = new_run("");
        let mut program = run.start();
        program.env("RAYON_NUM_THREADS", threads);
        finished(program);
        run
    });
    one.assert_same_end(&two);
    let other_seed = new_run("");
    let mut program = other_seed.start();
    program.args(["--seed", "1"]);
    finished(program);
    assert!(one.weights() != other_seed.weights());
}

#[test]
fn muon_and_alternating_flips_give_the_same_bits_on_one_and_two_threads() {
    let with = |threads: &str, more: &[&str]| {
        let run = new_run("optimizer = { name = 'muon', weight_decay = 0.01 }\n");
        let mut program = run.start();
        program.env("RAYON_NUM_THREADS", threads);
        program.args(["--set", "data.augmentation.horizontal_flip=true"]);
        finished({
            program.args(more);
            program
        });
        run
    };
    let alternating = ["--set", "data.augmentation.alternating_flip=true"];
    let one = with("1", &alternating);
    one.assert_same_end(&with("2", &alternating));
    assert!(one.weights() != with("2", &[]).weights(), "flips at random");
}

/// Sends SIGKILL to a program once `done` holds and `moment` has passed. It must still be running.
fn kill_when(mut program: Command, done: impl Fn() -> bool, moment: Duration) {
    let mut child = program.spawn().unwrap();
    while !done() && child.try_wait().unwrap().is_none() {
        sleep(Duration::from_micros(500));
    }
    sleep(moment);
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), None, "it had ended before: {stderr}");
}

/// Kills a run so many times, during its start, steps, saves and validation, and asserts that it
/// ends as an undisturbed run does. An epoch of the recipe has 45 steps.
#[cfg(unix)]
fn assert_survives(kills: u64, recipe: &str) {
    let [run, expected] = [(); 2].map(|()| new_run(""));
    for run in [&run, &expected] {
        run.sandbox.write("tiny.toml", recipe);
    }
    finished(expected.start());

    let (key, begun) = (RngKey::new(7), run.path("config.json"));
    kill_when(run.start(), || begun.exists(), Duration::ZERO);
    let mut in_the_middle = 0;
    for kill in 1..kills {
        let [saves, moment] = [0, 1].map(|draw| key.fold_in(kill).bits(draw) >> 8);
        let before = run.steps_saved().unwrap_or(0);
        let (saves, moment) = match saves % 6 {
            0 => (0, moment % 40_000), // during its start, or soon after
            saves => (saves, moment % 4_000),
        };
        let saved = || run.steps_saved().unwrap_or(0) >= before + 3 * saves;
        kill_when(run.resume(""), saved, Duration::from_micros(moment));
        in_the_middle += u64::from(run.steps_saved().is_some_and(|steps| steps % 45 != 0));
    }
    assert!(
        2 * in_the_middle >= kills,
        "{in_the_middle} states amid an epoch"
    );
    finished(run.resume("--checkpoint-every 10m"));
    run.assert_same_end(&expected);
}

#[cfg(unix)]
#[test]
fn runs_killed_fifty_times_equal_an_undisturbed_run() {
    let more =
        "epochs = 40\nbatch_size = 2\nearly_stopping = { patience = 40 }\ncheckpoint_every = 3";
    assert_survives(
        50,
        &several_epochs().replace("epochs = 6\nbatch_size = 7", more),
    );
}

/// What preset `cifar100-cpu` consists of, and its options, in a small model.
#[cfg(unix)]
#[test]
fn runs_of_the_cpu_recipe_survive_kills() {
    assert_survives(
        15,
        "
[model]
image_size = 8
stem_units = [4, 16]
stem_pooling = true
stem_blocks = 1
patch_size = 1
positions = 'fourier'
fourier_bands = 2
latent_dim = 4
projection_dim = 16
num_heads = 2
head_dim = 8
num_transformer_blocks = 1
num_iterations = 2
sharing = 'none'
ffn_units = [32, 16]
classifier_units = [4]
dropout_rate = 0.1
attention_dropout = 0.1
[data]
limit_train = 100
limit_test = 20
augmentation = { horizontal_flip = true, alternating_flip = true, zoom = 0.0, shift = 0.125 }
test_time_flip = true
[training]
epochs = 12
batch_size = 2
parallel_micro_batches = 2
learning_rate = 0.003
clip_norm = 1.0
label_smoothing = 0.1
ema_decay = 0.9
early_stopping = { patience = 40 }
checkpoint_every = 3
[training.optimizer]
name = 'muon'
weight_decay = 0.05
[training.schedule]
name = 'linear'
warmup_epochs = 0.5
",
    );
}

#[cfg(unix)]
#[test]
fn interrupted_runs_save_their_step_and_print_the_resume_command() {
    let expected = undisturbed("");
    let run = new_run("");
    let child = run.start().spawn().unwrap();
    while !run.path("config.json").exists() {
        sleep(Duration::from_millis(1));
    }
    let signal = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(signal.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("perceiver train --resume run"), "{stderr}");
    assert!(run.path("training/state.safetensors").exists());
    assert!(run.epochs_done() < 6);

    finished(run.resume(""));
    run.assert_same_end(&expected);
}

#[test]
fn resuming_a_finished_run_gives_the_same_results() {
    let run = undisturbed("");
    let (results, weights) = (run.results(), run.weights());
    finished(run.resume(""));
    assert_eq!(run.results(), results);
    assert!(run.weights() == weights);
}

/// The data need not even exist.
#[test]
fn resuming_a_finished_run_says_so_and_reads_no_data() {
    let run = undisturbed("");
    let moved = run.sandbox.path("moved");
    fs::rename(run.sandbox.path("photos"), &moved).unwrap();
    let output = finished(run.resume(""));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let expected = "run is already finished, after 6 epochs; extend it by a larger --epochs N";
    assert!(
        stderr.contains(expected) && !stderr.contains("reading"),
        "{stderr}"
    );
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("test"), "{printed}");
    // Writing a missing file again needs the data, as does resuming an unfinished run.
    fs::remove_file(run.path("model.safetensors")).unwrap();
    let output = run.resume("").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    fs::rename(&moved, run.sandbox.path("photos")).unwrap();
    finished(run.resume(""));
    assert!(run.path("model.safetensors").exists());
}

/// The data of a run may move, since they are identified by their content.
#[test]
fn runs_resume_with_moved_data() {
    let expected = new_run("");
    let recipe = several_epochs().replace("epochs = 6", "epochs = 7");
    expected.sandbox.write("tiny.toml", recipe);
    finished(expected.start());

    let run = undisturbed("");
    fs::rename(run.sandbox.path("photos"), run.sandbox.path("moved")).unwrap();
    // The same number of images under the same names, but with two classes swapped.
    for (class, other) in [(0, 1), (1, 0), (2, 2), (3, 3)] {
        let [from, to] = [
            format!("moved/class-{class}"),
            format!("other/class-{other}"),
        ]
        .map(|folder| run.sandbox.path(folder));
        fs::create_dir_all(&to).unwrap();
        for name in names_in(&from) {
            fs::copy(from.join(&name), to.join(&name)).unwrap();
        }
    }
    let before = run.weights();
    let output = run.resume("--epochs 7 --dataset folder:other").output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let state = fs::read_to_string(run.path("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&state).unwrap();
    let hash = config["data"]["train_sha256"].as_str().unwrap();
    assert!(
        stderr.contains(&format!(
            "the run was trained on data with sha256 {hash}, but folder:other has "
        )) && stderr.contains("give the location of the run's data by --dataset or --data-dir"),
        "{stderr}"
    );
    assert!(
        run.weights() == before,
        "a refused resume has changed the run"
    );
    let assert_contains = |file: &str, expected: &str| {
        let text = fs::read_to_string(run.path(file)).unwrap();
        assert!(text.contains(expected), "{file}: {text}");
    };
    assert_contains("training/recipe.toml", "\"folder:photos\"");

    finished(run.resume("--epochs 7 --dataset folder:moved"));
    assert!(run.weights() == expected.weights(), "other weights");
    assert_eq!(run.metrics(), expected.metrics());
    // Later commands look for the data in the new place.
    assert_contains("training/recipe.toml", "\"folder:moved\"");
    assert_contains("config.json", "\"folder:moved\"");
    let output = run.sandbox.succeed("report run");
    assert!(!output.err.contains("not shown"), "{}", output.err);
    run.sandbox.succeed("evaluate --checkpoint run");
    // This also applies to a finished run.
    fs::rename(run.sandbox.path("moved"), run.sandbox.path("again")).unwrap();
    finished(run.resume("--dataset folder:again"));
    assert_contains("training/recipe.toml", "\"folder:again\"");
    assert_eq!(run.epochs_done(), 7);
}

#[test]
fn extended_runs_equal_runs_planned_with_that_length() {
    let recipe = several_epochs();
    let run = undisturbed("");
    assert_eq!(
        (run.epochs_done(), recipe.matches("epochs = 6").count()),
        (6, 1)
    );
    let stale = run.results().replace("\"images\": 20", "\"images\": 21");
    fs::write(run.path("results.json"), stale).unwrap();
    finished(run.resume("--epochs 9"));
    let expected = new_run("");
    expected
        .sandbox
        .write("tiny.toml", recipe.replace("epochs = 6", "epochs = 9"));
    finished(expected.start());
    run.assert_same_end(&expected);
    let recipe = |run: &Run| fs::read_to_string(run.path("training/recipe.toml")).unwrap();
    assert_eq!(recipe(&run), recipe(&expected));
}

#[test]
fn runs_cannot_be_shortened_below_the_epochs_done() {
    let run = undisturbed("");
    for epochs in [1, 6] {
        let output = run.resume(&format!("--epochs {epochs}")).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            stderr.contains("expected more than the 6 already completed"),
            "{stderr}"
        );
    }
    assert!(run.path("results.json").exists());
}

/// A run that stopped early can be extended: its patience starts anew, and it stops again.
#[test]
fn early_stopped_runs_can_be_extended() {
    let changes =
        "training.learning_rate = 0.5\ntraining.epochs = 30\ntraining.early_stopping.patience = 2";
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("run");
    let recipe = recipe(changes);
    let data = TrainingData::load(&recipe).unwrap();
    let run = RunDirectory::unused(&root).unwrap();
    let mut trainer = Trainer::start(recipe, data.clone(), run, Device::Cpu).unwrap();
    let (mut observers, stop) = (Callbacks::new(), AtomicBool::new(false));
    trainer.fit_until(&mut observers, &stop).unwrap();
    let stopped_after = trainer.history().len();
    assert!(stopped_after < 30, "the run was not stopped early");
    drop(trainer); // only one process may write a run

    let again = || {
        let run = RunDirectory::open(&root).unwrap();
        let recipe = Recipe::read(run.recipe()).unwrap();
        Trainer::resume(recipe, data.clone(), run, Device::Cpu).unwrap()
    };
    let mut trainer = again();
    trainer.extend(40).unwrap();
    drop(trainer); // as if it were killed here
    let mut trainer = again();
    assert_eq!(trainer.recipe().training.epochs, 40);
    trainer.fit_until(&mut observers, &stop).unwrap();
    let more = trainer.history().len() - stopped_after;
    assert!(more >= 2, "{more} epochs more with a patience of 2");
}

/// A finite loss can have a non-finite gradient; a step with it would corrupt every parameter.
#[test]
fn non_finite_gradients_stop_the_run_before_the_optimizer_step() {
    let directory = tempfile::tempdir().unwrap();
    let recipe = recipe("training.epochs = 1\ntraining.clip_norm = 1.0");
    let data = TrainingData::load(&recipe).unwrap();
    let run = RunDirectory::unused(directory.path().join("run")).unwrap();
    let mut trainer = Trainer::start(recipe, data, run, Device::Cpu).unwrap();
    let stop = AtomicBool::new(false);
    let mut observer = StopAfter {
        steps: 3,
        stop: &stop,
    };
    trainer.fit_until(&mut observer, &stop).unwrap();
    let state = fs::read(trainer.run().state()).unwrap();

    let mut large = trainer.parameters().tensors();
    for (name, tensor) in &mut large {
        let factor = if name.starts_with("head") { 1e25 } else { 1.0 };
        *tensor = (&*tensor * factor).unwrap();
    }
    trainer.parameters().assign(&large).unwrap();
    let error = trainer.fit(&mut ()).unwrap_err();
    let message = error.to_string();
    assert!(
        message.starts_with("the gradient norm is ") && message.contains("at step 4 (epoch 1)"),
        "{message}"
    );
    for (name, tensor) in trainer.parameters().tensors() {
        let values = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&tensor), values(&large[&name]), "{name}");
    }
    assert!(
        fs::read(trainer.run().state()).unwrap() == state,
        "the state was touched"
    );
}

fn recipe(changes: &str) -> Recipe {
    Recipe::from_layers(&[
        ("quickstart", Preset::Quickstart.toml()),
        ("tiny", &several_epochs()),
        ("changes", changes),
    ])
    .unwrap()
}

/// Interrupts the run after `steps` steps.
struct StopAfter<'a> {
    steps: usize,
    stop: &'a AtomicBool,
}

impl Callback for StopAfter<'_> {
    fn on_event(&mut self, event: &Event<'_>) -> CallbackResult {
        if let Event::Step { .. } = event {
            self.steps = self.steps.saturating_sub(1);
            self.stop.store(self.steps == 0, Ordering::Relaxed);
        }
        Ok(Control::Continue)
    }
}

/// Returns the final weights and metrics of a run that is interrupted and resumed every `steps`
/// steps.
fn in_pieces_of(steps: usize, changes: &str) -> (Vec<u8>, Vec<EpochMetrics>) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("run");
    let recipe = recipe(changes);
    let data = TrainingData::load(&recipe).unwrap();
    let run = RunDirectory::unused(&root).unwrap();
    let mut trainer = Trainer::start(recipe, data.clone(), run, Device::Cpu).unwrap();
    loop {
        let stop = AtomicBool::new(false);
        let mut observer = StopAfter { steps, stop: &stop };
        if trainer.fit_until(&mut observer, &stop).unwrap() == Outcome::Finished {
            break;
        }
        let recipe = trainer.recipe().clone();
        drop(trainer);
        let run = RunDirectory::open(&root).unwrap();
        trainer = Trainer::resume(recipe, data.clone(), run, Device::Cpu).unwrap();
    }
    let weights = fs::read(trainer.run().model()).unwrap();
    let history = trainer.history().iter().map(|epoch| EpochMetrics {
        seconds: 0.0,
        images_per_second: 0.0,
        ..epoch.clone()
    });
    (weights, history.collect())
}

/// A forecast measures the model in use, but must not change it.
#[test]
fn forecasts_do_not_change_a_run() {
    let (expected, _) = in_pieces_of(usize::MAX, "training.epochs = 2");
    let directory = tempfile::tempdir().unwrap();
    let recipe = recipe("training.epochs = 2");
    let data = TrainingData::load(&recipe).unwrap();
    let run = RunDirectory::unused(directory.path().join("run")).unwrap();
    let mut trainer = Trainer::start(recipe, data, run, Device::Cpu).unwrap();
    let forecast = trainer.forecast().unwrap().unwrap();
    assert!(forecast.epoch_seconds > 0.0 && !trainer.is_done());
    let (mut observers, stop) = (Callbacks::new(), AtomicBool::new(false));
    trainer.fit_until(&mut observers, &stop).unwrap();
    assert!(trainer.is_done());
    assert!(fs::read(trainer.run().model()).unwrap() == expected);
}

#[test]
fn runs_can_be_interrupted_at_any_step() {
    let (weights, history) = in_pieces_of(usize::MAX, "");
    assert_eq!(history.len(), 6);
    for steps in [1, 4, 13, 40] {
        let (again, history_again) = in_pieces_of(steps, "");
        assert_eq!(history_again, history, "in pieces of {steps} steps");
        assert!(again == weights, "in pieces of {steps} steps");
    }
}

/// Covers all components that have a state or draw random numbers, together.
#[test]
fn schedules_ema_and_mixing_continue_across_a_resume() {
    for optimizer in ["adamw", "lamb", "muon", "sgd"] {
        let changes = format!(
            "[data.augmentation]
            horizontal_flip = true
            alternating_flip = true
            shift = 0.2
            rand_augment = {{ layers = 2 }}
            erasing = {{ probability = 0.3 }}
            mixing = {{ mixup = 0.4, cutmix = 1.0 }}
            [training]
            epochs = 3
            gradient_accumulation = 2
            clip_norm = 1.0
            label_smoothing = 0.1
            ema_decay = 0.9
            diagnose = true
            optimizer = {{ name = '{optimizer}', weight_decay = 0.1, momentum = 0.9 }}
            schedule = {{ name = 'cosine', warmup_epochs = 0.5 }}"
        );
        let (weights, history) = in_pieces_of(usize::MAX, &changes);
        assert!(history[2].learning_rate < history[0].learning_rate);
        let (again, history_again) = in_pieces_of(5, &changes);
        assert_eq!(history_again, history, "{optimizer}");
        assert!(again == weights, "{optimizer}");
    }
}

/// Without dropout, accumulated gradients equal those of the entire batch.
#[test]
fn gradient_accumulation_equals_the_whole_batch() {
    let of = |parts: usize| {
        let changes = format!(
            "model.dropout_rate = 0.0\nmodel.attention_dropout = 0.0\ntraining.epochs = 1\ntraining.gradient_accumulation = {parts}"
        );
        in_pieces_of(usize::MAX, &changes).1.remove(0)
    };
    let (whole, parts) = (of(1), of(3));
    assert!(
        (whole.loss - parts.loss).abs() < 1e-4,
        "{whole:?} {parts:?}"
    );
    assert!((whole.val_loss - parts.val_loss).abs() < 1e-4);
}

#[test]
fn early_stopping_and_plateau_continue_across_a_resume() {
    // At this learning rate the loss soon rises, which triggers plateau and early stopping.
    let changes =
        "training.learning_rate = 0.5\ntraining.epochs = 30\ntraining.early_stopping.patience = 3";
    let (weights, history) = in_pieces_of(usize::MAX, changes);
    assert!(history.len() < 30, "the run was not stopped early");
    let rates: Vec<f32> = history.iter().map(|epoch| epoch.learning_rate).collect();
    assert!(
        rates.last() < rates.first(),
        "the learning rate never fell: {rates:?}"
    );
    let (again, history_again) = in_pieces_of(5, changes);
    assert_eq!(history_again, history);
    assert!(again == weights);
}

#[test]
fn runs_do_not_resume_with_other_data() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("run");
    let run = RunDirectory::unused(&root).unwrap();
    let recipe_before = recipe("training.epochs = 1");
    let data = TrainingData::load(&recipe_before).unwrap();
    let mut observers: Callbacks = vec![Box::new(MetricsFile::new(run.metrics()))];
    let mut trainer = Trainer::start(recipe_before, data, run, Device::Cpu).unwrap();
    trainer.fit(&mut observers).unwrap();

    let other = TrainingData::load(&recipe("data.limit_train = 90")).unwrap();
    let recipe_now = trainer.recipe().clone();
    drop(trainer);
    let run = RunDirectory::open(&root).unwrap();
    let resumed = Trainer::resume(recipe_now, other, run, Device::Cpu);
    assert!(matches!(resumed.err(), Some(TrainError::OtherData { .. })));
}

#[test]
fn a_new_run_never_overwrites_an_old_one() {
    let run = undisturbed("");
    let weights = run.weights();
    let output = run.start().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("already contains a run") && stderr.contains("--resume"),
        "{stderr}"
    );
    assert!(run.weights() == weights);
}

/// Only documented files remain in a run directory: temporary files are removed, even those of a
/// killed program.
#[test]
fn a_run_directory_holds_what_is_documented() {
    let run = undisturbed("");
    fs::write(run.path(".writing-abc"), "half a file").unwrap();
    fs::write(run.path("training/.writing-def"), "another").unwrap();
    finished(run.resume(""));
    let mut files = [names_in(&run.path("")), names_in(&run.path("training"))].concat();
    files.sort();
    assert_eq!(
        files,
        [
            "config.json",
            "environment.json",
            "metrics.csv",
            "metrics.jsonl",
            "model.safetensors",
            "predictions.csv",
            "recipe.toml",
            "report.html",
            "results.json",
            "state.previous.safetensors",
            "state.safetensors",
            "steps.csv",
            "tensorboard",
            "training"
        ]
    );
}
