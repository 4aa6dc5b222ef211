//! Tests of the view in the terminal: what it looks like, in any size, and that a panic restores the
//! terminal.

#[cfg(target_os = "linux")]
use std::process::{Command, Stdio};

use perceiver_data::{Fit, Normalization, Preprocessing};
use perceiver_model::Architecture;
use perceiver_report::{Run, RunState, Snapshot};
use perceiver_train::{
    CheckpointConfig, DataCard, EpochMetrics, Preset, RunPhase, RunProgress, StepMetrics, Warning,
    WarningKind,
};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

#[cfg(target_os = "linux")]
use crate::ui::terminal::print_stderr;

use super::Screen;
use super::draw::{View, draw};

fn epoch(epoch: usize) -> EpochMetrics {
    let x = epoch as f64;
    EpochMetrics {
        epoch,
        loss: 3.0 / (1.0 + x),
        acc: 1.0 - 1.0 / (1.0 + x),
        top5_acc: 1.0,
        val_loss: 3.0 / (1.0 + x) + 0.02 * x,
        val_acc: 0.95 - 1.0 / (1.0 + x),
        val_top5_acc: 1.0,
        learning_rate: 1e-3,
        seconds: 12.5,
        images_per_second: 800.0 + 3.0 * x,
        diagnosis: None,
        warnings: Vec::new(),
        custom: std::collections::BTreeMap::new(),
    }
}

fn step(step: u64) -> StepMetrics {
    let x = step as f64 / 20.0;
    StepMetrics {
        step,
        epoch: x,
        seconds: step as f64,
        loss: 3.0 / (1.0 + x),
        learning_rate: 1e-3 * (1.0 - x / 20.0),
        gradient_norm: 1.0 + (7.0 * x).sin().abs(),
        peak_memory_bytes: Some(400_000_000 + 1_000_000 * step),
    }
}

/// A run in its fifth epoch, with a name that would control a terminal.
fn training() -> Snapshot {
    let recipe = Preset::Quickstart.recipe();
    let preprocessing = Preprocessing {
        image_size: recipe.model.image_size(),
        antialias: true,
        fit: Fit::Stretch,
        normalization: Normalization {
            mean: vec![0.0; 3],
            variance: vec![1.0; 3],
        },
        transformers: None,
    };
    let classes = (0..20).map(|class| format!("class {class}")).collect();
    let card = DataCard::unknown();
    let run = Run {
        name: "photos\u{1b}[2J".to_string(),
        root: "runs/photos".into(),
        config: CheckpointConfig::new(recipe.model.clone(), preprocessing, classes, card),
        recipe,
        epochs: (1..=4).map(epoch).collect(),
        steps: (1..=90).map(step).collect(),
        results: None,
        predictions: None,
        environment: None,
    };
    Snapshot {
        run,
        state: RunState::Running,
        progress: Some(RunProgress {
            phase: RunPhase::Training,
            epoch: 5,
            epochs: Some(20),
            done: 10,
            total: 20,
            loss: Some(0.5432),
            acc: Some(0.8125),
            images_per_second: Some(812.4),
            epoch_seconds_left: Some(6.0),
            seconds_left: Some(200.0),
            peak_memory_bytes: Some(490_000_000),
            warnings: Vec::new(),
        }),
        has_report: false,
        problem: None,
    }
}

fn log() -> Vec<String> {
    let line = |epoch| {
        format!(
            "\u{1b}[32m INFO\u{1b}[0m epoch {epoch}/20  loss 0.5432  acc 81.25%  top-5 99.71%  |  \
             val loss 0.6800  acc 75.00%  top-5 98.40%  |  13 s, 812 images/s  *\n"
        )
    };
    (1..=4).map(line).collect()
}

fn drawn(view: &View<'_>, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, view)).unwrap();
    terminal.backend().to_string()
}

fn of_training<'a>(snapshot: &'a Snapshot, log: &'a [String]) -> View<'a> {
    View {
        snapshot,
        log: Some(log),
        is_training: true,
    }
}

fn warned(mut snapshot: Snapshot) -> Snapshot {
    snapshot.run.epochs[1].warnings = vec![Warning {
        step: 31,
        kind: WarningKind::StuckLoss,
        finding: "the loss is 2.99, which is chance".to_string(),
        cause: "the learning rate is too high".to_string(),
        cure: "--learning-rate 0.0003".to_string(),
    }];
    snapshot
}

macro_rules! assert_looks {
    ($name:literal, $text:expr) => {
        insta::with_settings!({
            snapshot_path => "../../../../../tests/snapshots",
            prepend_module_to_snapshot => false,
        }, {
            insta::assert_snapshot!($name, $text);
        });
    };
}

#[test]
fn a_training_is_readable_on_a_small_and_on_a_large_terminal() {
    let (snapshot, log) = (training(), log());
    let view = of_training(&snapshot, &log);
    let small = drawn(&view, 80, 24);
    for expected in [
        "epoch 5 of 20, step 10 of 20",
        "812 images/s",
        "total ETA",
        "490 MB",
        "epoch 4/20  loss 0.5432",
        "13 s, 812 images/s", // the end of a line that is longer than the terminal is wide
        "Ctrl-C",
    ] {
        assert!(small.contains(expected), "{expected}:\n{small}");
    }
    assert!(
        !small.contains("[32m") && !small.contains('\u{1b}'),
        "{small}"
    );
    assert_looks!("tui-80x24", small);
    assert_looks!("tui-200x50", drawn(&view, 200, 50));
}

#[test]
fn warnings_have_a_place_of_their_own() {
    let (snapshot, log) = (warned(training()), log());
    assert_looks!(
        "tui-warning-80x24",
        drawn(&of_training(&snapshot, &log), 80, 24)
    );
}

#[test]
fn a_watcher_sees_the_last_epochs() {
    let snapshot = Snapshot {
        state: RunState::Stopped,
        ..training()
    };
    let view = View {
        snapshot: &snapshot,
        log: None,
        is_training: false,
    };
    let text = drawn(&view, 80, 24);
    assert!(
        text.contains("resume with: perceiver train") && text.contains("--resume runs/photos"),
        "{text}"
    );
    assert_looks!("tui-watch-80x24", text);
}

/// Whatever the size and however few values there are, nothing panics.
#[test]
fn any_size_and_any_run_can_be_drawn() {
    let log = log();
    let whole = warned(training());
    let mut empty = training();
    empty.run.epochs.clear();
    empty.run.steps.clear();
    empty.progress = None;
    let mut extreme = training();
    extreme.run.epochs[0].loss = f64::NAN;
    extreme.run.epochs[1].val_loss = 1e308;
    extreme.run.steps[0].loss = f64::INFINITY;
    extreme.run.epochs.truncate(2);
    extreme.run.steps.truncate(1);
    for snapshot in [whole, empty, extreme] {
        for width in [1, 2, 20, 79, 120, 300] {
            for height in [1, 2, 3, 5, 10, 24, 70] {
                drawn(&of_training(&snapshot, &log), width, height);
                let view = View {
                    log: None,
                    is_training: false,
                    snapshot: &snapshot,
                };
                drawn(&view, width, height);
            }
        }
    }
}

/// Takes the terminal and panics, as a defect in the view would. Run by the test below.
#[test]
#[ignore = "takes the terminal and panics"]
fn panic_in_the_view() {
    let _screen = Screen::open().unwrap();
    panic!("a defect");
}

/// In a pseudoterminal, whose settings after the panic are those of before.
#[cfg(target_os = "linux")]
#[test]
fn a_panic_restores_the_terminal() {
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap().replace('\'', r"'\''");
    let test = "ui::tui::tests::panic_in_the_view --exact --ignored --nocapture";
    let commands = format!("stty -a; '{program}' {test}; echo; echo after; stty -a");
    let output = Command::new("script")
        .args(["-qec", &commands, "/dev/null"])
        .env("TERM", "xterm-256color")
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::null())
        .output();
    let Ok(output) = output else {
        print_stderr("skipped: no program `script` here");
        return;
    };
    let seen = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    let (before, rest) = seen.split_once("\u{1b}[?1049h").expect(&seen);
    let (_, rest) = rest.split_once("\u{1b}[?1049l").expect(&seen);
    let (told, after) = rest.split_once("\nafter\n").expect(&seen);
    assert!(told.contains("\u{1b}[?25h"), "the cursor: {seen}");
    assert!(told.contains("a defect"), "the message: {seen}");
    let settings = |text: &str| {
        let lines = text
            .lines()
            .filter(|line| line.starts_with(['-', 'i', 'o']));
        lines.map(str::to_string).collect::<Vec<_>>()
    };
    assert!(settings(before).len() >= 3, "{seen}");
    assert!(
        settings(before).iter().any(|line| line.contains(" icanon")),
        "{seen}"
    );
    assert_eq!(settings(after), settings(before), "{seen}");
}
