//! Runs with a time budget: how long they train, and that they can be interrupted and resumed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use candle_core::Device;
use perceiver_tests::program::tiny_recipe as recipe;
use perceiver_train::{
    Callback, CallbackResult, Control, EpochMetrics, Event, Outcome, Recipe, RunDirectory,
    TestReserve, TestResults, Trainer, TrainingData,
};

/// Counts steps, and interrupts the run after `last` of them.
struct Steps<'a> {
    done: usize,
    last: usize,
    stop: &'a AtomicBool,
}

impl Callback for Steps<'_> {
    fn on_event(&mut self, event: &Event<'_>) -> CallbackResult {
        if let Event::Step { .. } = event {
            self.done += 1;
            self.stop.store(self.done == self.last, Ordering::Relaxed);
        }
        Ok(Control::Continue)
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

    /// Starts the run, or resumes it.
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

    /// Trains to the end. Returns the number of steps, and the metrics.
    fn finish(&self) -> (usize, Vec<EpochMetrics>) {
        finish(self.trainer())
    }
}

/// Trains until `last` steps are done, or to the end. Returns the outcome, the number of steps,
/// and the metrics.
fn train(last: usize, mut trainer: Trainer) -> (Outcome, usize, Vec<EpochMetrics>) {
    let stop = AtomicBool::new(false);
    let mut steps = Steps {
        done: 0,
        last,
        stop: &stop,
    };
    let outcome = trainer.fit_until(&mut steps, &stop).unwrap();
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

/// Returns the time `minutes` ago; possibly `None` on a machine that was started later.
fn ago(minutes: u64) -> Option<Instant> {
    Instant::now().checked_sub(Duration::from_mins(minutes))
}

#[test]
fn time_budget_runs_resume_and_decay_the_learning_rate() {
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
        // After nine tenths of the budget, the first epoch ends and the second begins.
        let Some(since) = ago(90) else { return };
        let history = leave_after(4, run.trainer().timed(since, TestReserve::default()));
        assert_eq!(history.len(), 1, "{schedule}");
        let share = history[0].learning_rate / run.recipe.training.learning_rate;
        assert!(expected.contains(&share), "{schedule}: {share}");
        // The budget is used up: the interrupted epoch is validated without another step.
        let Some(since) = ago(10) else { return };
        let (steps, history) = finish(run.trainer().timed(since, TestReserve::default()));
        assert_eq!((steps, history.len()), (0, 2), "{schedule}");
    }
}

#[test]
fn any_budget_has_a_validated_and_recorded_step() {
    let run = Run::new("training.budget = '1ms'");
    let (steps, history) = run.finish();
    assert_eq!((steps, history.len()), (1, 1));
    assert!(history[0].val_loss.is_finite());
    // Resuming it again changes nothing.
    assert_eq!(run.finish(), (0, history));
}

#[test]
fn elapsed_and_reserved_time_count_against_the_budget() {
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
fn time_budget_runs_finish_an_interrupted_epoch() {
    let mut run = Run::new("training.budget = '1h'");
    leave_after(1, run.trainer());
    // The budget is used up as soon as the run resumes.
    run.recipe.training.budget = Some("1ms".parse().unwrap());
    let (steps, history) = run.finish();
    assert_eq!((steps, history.len()), (0, 1));
}

#[test]
fn time_budget_runs_end_with_the_test() {
    let sandbox =
        perceiver_tests::program::Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    let output = sandbox
        .succeed("train --preset quickstart --config tiny.toml --budget 1500ms --output run");
    assert!(
        output.err.contains("with a budget of 1s 500ms"),
        "{}",
        output.err
    );
    let results = TestResults::read(sandbox.path("run/results.json")).unwrap();
    assert_eq!(results.images, 20);
    for refused in ["600", "0s", "soon"] {
        let output = sandbox.run(&format!("train --preset quickstart --budget {refused}"));
        assert_eq!(output.code, Some(2));
        assert!(
            output.err.contains("expected a duration above 0"),
            "{}",
            output.err
        );
    }
}

/// The warning precedes the first step, which is done nonetheless.
#[test]
fn too_short_budgets_are_reported_with_the_minimum() {
    let sandbox =
        perceiver_tests::program::Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    let output = sandbox.succeed(
        "train --preset quickstart --config tiny.toml --limit-train 600 --budget 50ms --output run",
    );
    let warning = output
        .err
        .find("a budget of 50ms is too short for one step, validation, saving and the test, and will be exceeded");
    let epoch = output.err.find("epoch 1");
    assert!(warning.is_some() && warning < epoch, "{}", output.err);
    let least = output.err.split("about --budget ").nth(1).unwrap();
    let least = least.split_whitespace().next().unwrap();
    assert!(least.parse::<perceiver_train::Budget>().is_ok(), "{least}");
}

#[test]
fn the_minimum_budget_includes_the_test() {
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
    // The loading time of the test data, times 1.2 as a safety factor, and the slack.
    assert!((more - 122.4).abs() < 2.0, "{more}");
}
