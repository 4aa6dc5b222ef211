//! Runs are a function of recipe and data: the same bits from one seed, on any number of threads, and however often they
//! are killed and resumed.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use candle_core::Device;
use perceiver_ops::Key;
use perceiver_tests::program::{TINY_MODEL, Workplace, names_in};
use perceiver_train::{
    EpochMetrics, Event, MetricsFile, Observer, Observers, Outcome, Preset, Recipe, RunDirectory,
    TrainError, Trainer, TrainingData,
};

/// The tiny model with dropout, so that its masks are tested too, for several epochs of many steps.
fn several_epochs() -> String {
    let rest = "
dropout_rate = 0.2
attention_dropout = 0.1
[data]
limit_train = 100
limit_test = 20
[training]
epochs = 6
batch_size = 7
learning_rate = 0.01
plateau = { patience = 1 }
";
    format!("{TINY_MODEL}{rest}")
}

/// A run of the real program on that recipe.
struct Run {
    place: Workplace,
}

impl Run {
    fn new() -> Self {
        let place = Workplace::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
        place.write("tiny.toml", several_epochs());
        Self { place }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.place.path("run").join(file)
    }

    fn start(&self) -> Command {
        let start = "train --preset quickstart --config tiny.toml --output run";
        self.place.command(start)
    }

    fn resume(&self) -> Command {
        self.place.command("train --resume run")
    }

    fn weights(&self) -> Vec<u8> {
        fs::read(self.path("model.safetensors")).unwrap()
    }

    fn results(&self) -> String {
        fs::read_to_string(self.path("results.json")).unwrap()
    }

    /// The metrics of every epoch, without what the clock says.
    fn metrics(&self) -> Vec<EpochMetrics> {
        let text = fs::read_to_string(self.path("metrics.jsonl")).unwrap();
        text.lines()
            .map(|line| EpochMetrics {
                seconds: 0.0,
                images_per_second: 0.0,
                ..serde_json::from_str(line).unwrap()
            })
            .collect()
    }

    fn epochs_done(&self) -> usize {
        fs::read_to_string(self.path("metrics.jsonl")).map_or(0, |text| text.lines().count())
    }
}

fn finished(mut program: Command) -> Output {
    let output = program.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A run that nothing disturbed.
fn undisturbed() -> Run {
    let run = Run::new();
    finished(run.start());
    run
}

fn assert_same_end(run: &Run, expected: &Run) {
    assert_eq!(run.metrics(), expected.metrics());
    assert!(run.weights() == expected.weights(), "the weights differ");
    assert_eq!(run.results(), expected.results());
}

#[test]
fn one_seed_gives_the_same_bits_on_one_thread_and_on_two() {
    let [one, two] = ["1", "2"].map(|threads| {
        let run = Run::new();
        let mut program = run.start();
        program.env("RAYON_NUM_THREADS", threads);
        finished(program);
        run
    });
    assert_same_end(&one, &two);
    let other_seed = Run::new();
    let mut program = other_seed.start();
    program.args(["--seed", "1"]);
    finished(program);
    assert!(one.weights() != other_seed.weights());
}

/// Kills a child without a chance to react, once `done` holds or it has ended by itself.
fn kill_when(mut child: Child, done: impl Fn() -> bool) {
    while !done() && child.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(1));
    }
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened() {
    let expected = undisturbed();
    let run = Run::new();
    kill_when(run.start().spawn().unwrap(), || {
        run.path("config.json").exists()
    });
    for (index, epochs) in [1, 2, 4].into_iter().enumerate() {
        let child = run.resume().spawn().unwrap();
        kill_when(child, || run.epochs_done() >= epochs);
        // And once more at any moment, the reading of the data included.
        let child = run.resume().spawn().unwrap();
        sleep(Duration::from_millis(Key::new(7).bits(index as u64) % 900));
        kill_when(child, || true);
    }
    finished(run.resume());
    assert_same_end(&run, &expected);
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_saves_its_step_and_says_how_to_go_on() {
    let expected = undisturbed();
    let run = Run::new();
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
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("perceiver train --resume run"), "{said}");
    assert!(run.path("training/state.safetensors").exists());
    assert!(run.epochs_done() < 6);

    finished(run.resume());
    assert_same_end(&run, &expected);
}

#[test]
fn a_finished_run_resumed_ends_again_with_the_same_results() {
    let run = undisturbed();
    let (results, weights) = (run.results(), run.weights());
    finished(run.resume());
    assert_eq!(run.results(), results);
    assert!(run.weights() == weights);
}

#[test]
fn a_damaged_state_is_refused_by_name_and_nothing_is_lost() {
    let run = undisturbed();
    let path = run.path("training/state.safetensors");
    let (state, weights) = (fs::read(&path).unwrap(), run.weights());
    let truncated = &state[..state.len() - 1];
    for damaged in [truncated, &state[..20], b"not a state".as_slice(), b""] {
        fs::write(&path, damaged).unwrap();
        let output = run.resume().output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("state.safetensors is damaged"), "{said}");
        assert_eq!(fs::read(&path).unwrap(), damaged);
        assert!(run.weights() == weights, "the best weights were touched");
    }
}

fn recipe(changes: &str) -> Recipe {
    Recipe::from_layers(&[
        ("quickstart", Preset::Quickstart.table()),
        ("tiny", toml::from_str(&several_epochs()).unwrap()),
        ("changes", toml::from_str(changes).unwrap()),
    ])
    .unwrap()
}

/// Asks to stop after so many steps.
struct StopAfter<'a> {
    steps: usize,
    stop: &'a AtomicBool,
}

impl Observer for StopAfter<'_> {
    fn notice(&mut self, event: &Event<'_>) -> perceiver_train::Result<()> {
        if let Event::Step { .. } = event {
            self.steps = self.steps.saturating_sub(1);
            self.stop.store(self.steps == 0, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The weights a run ends with when it is left and resumed every `steps` steps.
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
        if trainer.fit(&mut observer, &stop).unwrap() == Outcome::Finished {
            break;
        }
        let recipe = trainer.recipe().clone();
        let run = RunDirectory::open(&root).unwrap();
        trainer = Trainer::resume(recipe, data.clone(), run, Device::Cpu).unwrap();
    }
    let weights = fs::read(trainer.run().model()).unwrap();
    let history = trainer.history().iter().map(|epoch| EpochMetrics {
        seconds: 0.0,
        images_per_second: 0.0,
        ..*epoch
    });
    (weights, history.collect())
}

#[test]
fn a_run_can_be_left_at_any_step() {
    let (weights, history) = in_pieces_of(usize::MAX, "");
    assert_eq!(history.len(), 6);
    for steps in [1, 4, 13, 40] {
        let (again, history_again) = in_pieces_of(steps, "");
        assert_eq!(history_again, history, "in pieces of {steps} steps");
        assert!(again == weights, "in pieces of {steps} steps");
    }
}

/// Everything that has a state of its own or draws at random, at once.
#[test]
fn schedules_averages_and_mixed_pictures_remember_across_a_resume() {
    for optimizer in ["adamw", "lamb", "sgd"] {
        let changes = format!(
            "[data.augmentation]
            shift = 0.2
            rand_augment = {{ layers = 2 }}
            erasing = {{ probability = 0.3 }}
            mixing = {{ mixup = 0.4, cutmix = 1.0 }}
            [training]
            epochs = 3
            accumulate = 2
            clip_norm = 1.0
            label_smoothing = 0.1
            averaging = 0.9
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

/// The parts of a batch have the gradients of the whole, where no dropout tells them apart.
#[test]
fn a_batch_in_parts_is_the_batch() {
    let of = |parts: usize| {
        let changes = format!(
            "model.dropout_rate = 0.0\nmodel.attention_dropout = 0.0\ntraining.epochs = 1\ntraining.accumulate = {parts}"
        );
        in_pieces_of(usize::MAX, &changes).1[0]
    };
    let (whole, parts) = (of(1), of(3));
    assert!(
        (whole.loss - parts.loss).abs() < 1e-4,
        "{whole:?} {parts:?}"
    );
    assert!((whole.val_loss - parts.val_loss).abs() < 1e-4);
}

#[test]
fn early_stopping_and_plateau_remember_across_a_resume() {
    // At this learning rate the loss soon rises, so that the plateau acts and the run ends early.
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
fn a_run_does_not_go_on_with_other_data() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("run");
    let run = RunDirectory::unused(&root).unwrap();
    let recipe_before = recipe("training.epochs = 1");
    let data = TrainingData::load(&recipe_before).unwrap();
    let mut observers: Observers = vec![Box::new(MetricsFile::new(run.metrics()))];
    let mut trainer = Trainer::start(recipe_before, data, run, Device::Cpu).unwrap();
    trainer
        .fit(&mut observers, &AtomicBool::new(false))
        .unwrap();

    let other = TrainingData::load(&recipe("data.limit_train = 90")).unwrap();
    let run = RunDirectory::open(&root).unwrap();
    let resumed = Trainer::resume(trainer.recipe().clone(), other, run, Device::Cpu);
    assert!(matches!(resumed.err(), Some(TrainError::OtherData { .. })));
}

#[test]
fn a_new_run_never_overwrites_an_old_one() {
    let run = undisturbed();
    let weights = run.weights();
    let output = run.start().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("already holds a run") && said.contains("--resume"),
        "{said}"
    );
    assert!(run.weights() == weights);
}

/// Only what a run documents lies in its directory: no temporary file stays behind, not even of a killed program.
#[test]
fn a_run_directory_holds_what_is_documented() {
    let run = undisturbed();
    fs::write(run.path(".writing-abc"), "half a file").unwrap();
    fs::write(run.path("training/.writing-def"), "another").unwrap();
    finished(run.resume());
    let mut files = [names_in(&run.path("")), names_in(&run.path("training"))].concat();
    files.sort();
    assert_eq!(
        files,
        [
            "config.json",
            "metrics.jsonl",
            "model.safetensors",
            "recipe.toml",
            "results.json",
            "state.previous.safetensors",
            "state.safetensors",
            "training"
        ]
    );
}
