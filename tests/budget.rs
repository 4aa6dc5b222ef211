//! Runs by the clock: how far they go, and that they can be left like others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use candle_core::Device;
use perceiver_tests::program::tiny;
use perceiver_train::{
    Callback, EpochMetrics, Event, Outcome, Preset, Recipe, RunDirectory, TestReserve, TestResults,
    Trainer, TrainingData,
};

fn recipe(changes: &str) -> Recipe {
    Recipe::from_layers(&[
        ("quickstart", Preset::Quickstart.table()),
        ("tiny", toml::from_str(&tiny()).unwrap()),
        ("changes", toml::from_str(changes).unwrap()),
    ])
    .unwrap()
}

/// Counts steps, and asks to stop after some.
struct Steps<'a> {
    done: usize,
    last: usize,
    stop: &'a AtomicBool,
}

impl Callback for Steps<'_> {
    fn notice(&mut self, event: &Event<'_>) -> perceiver_train::Result<()> {
        if let Event::Step { .. } = event {
            self.done += 1;
            self.stop.store(self.done == self.last, Ordering::Relaxed);
        }
        Ok(())
    }
}

struct Run {
    directory: tempfile::TempDir,
    recipe: Recipe,
    data: TrainingData,
}

impl Run {
    fn new(changes: &str) -> Self {
        let recipe = recipe(changes);
        Self {
            directory: tempfile::tempdir().unwrap(),
            data: TrainingData::load(&recipe).unwrap(),
            recipe,
        }
    }

    /// Starts the run or goes on with it.
    fn trainer(&self) -> Trainer {
        let root = self.directory.path().join("run");
        let (recipe, data) = (self.recipe.clone(), self.data.clone());
        let trainer = if let Ok(run) = RunDirectory::open(&root) {
            Trainer::resume(recipe, data, run, Device::Cpu)
        } else {
            let run = RunDirectory::unused(root).unwrap();
            Trainer::start(recipe, data, run, Device::Cpu)
        };
        trainer.unwrap()
    }

    /// Trains to the end: steps and metrics.
    fn finish(&self) -> (usize, Vec<EpochMetrics>) {
        finish(self.trainer())
    }
}

/// Trains until so many steps are done, or to the end: how, how many, and metrics.
fn train(last: usize, mut trainer: Trainer) -> (Outcome, usize, Vec<EpochMetrics>) {
    let stop = AtomicBool::new(false);
    let mut steps = Steps {
        done: 0,
        last,
        stop: &stop,
    };
    let outcome = trainer.fit(&mut steps, &stop).unwrap();
    (outcome, steps.done, trainer.history().to_vec())
}

fn finish(trainer: Trainer) -> (usize, Vec<EpochMetrics>) {
    let (outcome, steps, history) = train(usize::MAX, trainer);
    assert_eq!(outcome, Outcome::Finished);
    (steps, history)
}

fn leave_after(steps: usize, trainer: Trainer) -> Vec<EpochMetrics> {
    let (outcome, done, history) = train(steps, trainer);
    assert_eq!((outcome, done), (Outcome::Interrupted, steps));
    history
}

/// The time `minutes` ago; a machine that has not been running for so long may have none.
fn ago(minutes: u64) -> Option<Instant> {
    Instant::now().checked_sub(Duration::from_mins(minutes))
}

#[test]
fn a_run_by_the_clock_goes_on_and_its_learning_rate_comes_down() {
    let shares = [
        ("plateau", 0.3..0.42),
        ("linear", 0.05..0.09),
        ("constant", 0.99..1.01),
    ];
    for (schedule, expected) in shares {
        let run = Run::new(&format!(
            "[training]\nepochs = 1\nbudget = '100m'\nschedule.name = '{schedule}'"
        ));
        leave_after(1, run.trainer());
        // The rest of the first epoch, and more, when nine tenths of the time have gone by.
        let Some(since) = ago(90) else { return };
        let history = leave_after(4, run.trainer().timed(since, TestReserve::default()));
        assert_eq!(history.len(), 1, "{schedule}");
        let share = history[0].learning_rate / run.recipe.training.learning_rate;
        assert!(expected.contains(&share), "{schedule}: {share}");
        // And the end.
        let Some(since) = ago(10) else { return };
        let (steps, history) = finish(run.trainer().timed(since, TestReserve::default()));
        assert_eq!((steps, history.len()), (0, 2), "{schedule}");
    }
}

#[test]
fn however_short_the_time_there_is_a_step_and_it_is_validated_and_recorded() {
    let run = Run::new("training.budget = '1ms'");
    let (steps, history) = run.finish();
    assert_eq!((steps, history.len()), (1, 1));
    assert!(history[0].val_loss.is_finite());
    // And that was all.
    assert_eq!(run.finish(), (0, history));
}

#[test]
fn time_that_has_gone_by_is_gone() {
    let run = Run::new("training.budget = '1h'");
    if let Some(since) = ago(60) {
        let trainer = run.trainer().timed(since, TestReserve::default());
        assert_eq!(finish(trainer).0, 1);
    }
    let run = Run::new("training.budget = '1h'");
    let test = TestReserve {
        images: 0,
        loading: Duration::from_hours(1),
    };
    let trainer = run.trainer().timed(Instant::now(), test);
    assert_eq!(finish(trainer).0, 1);
}

#[test]
fn a_run_by_the_clock_that_was_left_in_an_epoch_ends_with_what_was_begun() {
    let mut run = Run::new("training.budget = '1h'");
    leave_after(1, run.trainer());
    // The time is up as soon as the run goes on.
    run.recipe.training.budget = Some("1ms".parse().unwrap());
    let (steps, history) = run.finish();
    assert_eq!((steps, history.len()), (0, 1));
}

#[test]
fn the_program_ends_a_run_by_the_clock_with_the_test() {
    let place = perceiver_tests::program::Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    let said =
        place.succeed("train --preset quickstart --config tiny.toml --budget 1500ms --output run");
    assert!(
        said.err.contains("with a budget of 1s 500ms"),
        "{}",
        said.err
    );
    let results = TestResults::read(&place.path("run/results.json")).unwrap();
    assert_eq!(results.images, 20);
    for refused in ["600", "0s", "soon"] {
        let said = place.run(&format!("train --preset quickstart --budget {refused}"));
        assert_eq!(said.code, Some(2));
        assert!(
            said.err.contains("expected a duration above 0"),
            "{}",
            said.err
        );
    }
}

/// Said before the first step, and one step is made all the same.
#[test]
fn a_budget_that_is_too_short_is_told_with_the_least_that_works() {
    let place = perceiver_tests::program::Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    let said = place.succeed(
        "train --preset quickstart --config tiny.toml --limit-train 600 --budget 50ms --output run",
    );
    let told = said
        .err
        .find("a budget of 50ms is too short for one step, validation, saving and the test, and will be exceeded");
    let epoch = said.err.find("epoch 1");
    assert!(told.is_some() && told < epoch, "{}", said.err);
    let least = said.err.split("about --budget ").nth(1).unwrap();
    let least = least.split_whitespace().next().unwrap();
    assert!(least.parse::<perceiver_train::Budget>().is_ok(), "{least}");
}

#[test]
fn the_least_budget_has_room_for_the_test() {
    let run = Run::new("training.budget = '1ms'");
    let trainer = run.trainer();
    let forecast = trainer.forecast().unwrap().unwrap();
    let least = trainer.least_budget(&forecast).duration();
    let test = TestReserve {
        images: 0,
        loading: Duration::from_secs(100),
    };
    let later = trainer.timed(Instant::now(), test).least_budget(&forecast);
    let more = later.duration().saturating_sub(least).as_secs_f64();
    // The test's loading, with a fifth more for caution and the slack.
    assert!((more - 122.4).abs() < 2.0, "{more}");
}
