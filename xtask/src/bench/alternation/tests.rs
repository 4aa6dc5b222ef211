//! The alternation, with tiny shell scripts as contestants.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;

use super::in_turns::POLL;
use super::*;
use crate::bench::contestant::Contestant;
use crate::error::{Result, XtaskError};
use crate::progress::Silent;

/// A step of two images every ten milliseconds, by a process that the shell starts.
const STEPS: &str = "while true; do echo step 2; sleep 0.01; done";

fn alternation() -> Alternation {
    Alternation {
        slice: Duration::from_millis(150),
        cycles: 3,
        warm_up: 2,
        seed: 7,
    }
}

fn run(contestants: &[Contestant]) -> Result<Vec<Stint>> {
    alternation().run("test", contestants, &AtomicBool::new(false), &Silent)
}

/// Returns a contestant that also writes its process ID, which is that of its group, to a file.
fn with_id(name: &str, file: &Path, script: &str) -> Contestant {
    Contestant::shell(name, &format!("echo $$ > '{}'; {script}", file.display()))
}

/// Whether all processes of a group end. All have been killed before, but only the contestant itself
/// is waited for.
#[cfg(target_os = "linux")]
fn has_ended(file: &Path) -> bool {
    (0..1_000).any(|_| {
        sleep(POLL);
        alive(file) == 0
    })
}

/// Returns the number of processes of a group that are alive, whether awake or stopped.
#[cfg(target_os = "linux")]
fn alive(file: &Path) -> usize {
    let group = std::fs::read_to_string(file).unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let stats =
        processes.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    let is_member = |stat: &String| {
        // `ID (name) state parent group ...`; a zombie only waits to be forgotten.
        let fields = stat.rsplit(") ").next().unwrap_or_default();
        let mut fields = fields.split(' ');
        fields.next() != Some("Z") && fields.nth(1) == Some(group.trim())
    };
    stats.filter(is_member).count()
}

#[test]
fn steps_and_images_are_counted_in_every_slice() {
    let slow = "while true; do echo step 2; sleep 0.03; done";
    let stints = run(&[
        Contestant::shell("fast", STEPS),
        Contestant::shell("slow", slow),
    ])
    .unwrap();
    for stint in &stints {
        assert_eq!(stint.turns.len(), 3);
        assert!(stint.steps() >= 1);
        let amount: f64 = stint.turns.iter().map(|turn| turn.amount).sum();
        assert!((amount - 2.0 * stint.steps() as f64).abs() < 1e-9);
        assert!(stint.awake >= 3 * alternation().slice);
        assert_eq!(stint.peak_rss_bytes.is_some(), cfg!(target_os = "linux"));
    }
}

#[test]
fn one_process_at_a_time_is_awake() {
    let directory = tempfile::tempdir().unwrap();
    // Each step appends a letter; a process that is never stopped would mix its letters with others'.
    let log = directory.path().join("log");
    let script = |letter| {
        let log = log.display();
        format!("while true; do printf {letter} >> '{log}'; echo step 1; sleep 0.01; done")
    };
    let contestants = ["a", "b", "c"].map(|letter| Contestant::shell(letter, &script(letter)));
    let stints = run(&contestants).unwrap();
    let letters = std::fs::read_to_string(&log).unwrap();
    let mut runs: Vec<char> = letters.chars().collect();
    runs.dedup();
    // Three warm-ups and nine slices; neighbouring slices of one process make one run.
    assert!((8..=12).contains(&runs.len()), "{letters}");
    let steps: usize = stints.iter().map(Stint::steps).sum();
    assert!(letters.len() >= steps, "{letters}");
}

#[test]
#[cfg(target_os = "linux")]
fn nothing_is_alive_afterwards() {
    let directory = tempfile::tempdir().unwrap();
    let files = ["one", "two"].map(|name| directory.path().join(name));
    let contestants = [
        with_id("one", &files[0], STEPS),
        // What a contestant starts, and a contestant that ignores what can be ignored.
        with_id(
            "two",
            &files[1],
            &format!("trap '' TERM INT HUP; sleep 1000 & {STEPS}"),
        ),
    ];
    run(&contestants).unwrap();
    assert!(files.iter().all(|file| has_ended(file)));
}

#[test]
#[cfg(target_os = "linux")]
fn an_interrupted_measurement_leaves_nothing_alive() {
    let directory = tempfile::tempdir().unwrap();
    let files = ["one", "two"].map(|name| directory.path().join(name));
    let contestants = [
        with_id("one", &files[0], STEPS),
        with_id("two", &files[1], STEPS),
    ];
    let interrupted = Arc::new(AtomicBool::new(false));
    let (flag, last) = (Arc::clone(&interrupted), files[1].clone());
    // Ctrl-C once both are there.
    let ctrl_c = std::thread::spawn(move || {
        while !last.exists() {
            sleep(POLL);
        }
        flag.store(true, Ordering::Relaxed);
    });
    let long = Alternation {
        cycles: 1_000_000,
        ..alternation()
    };
    let error = long
        .run("test", &contestants, &interrupted, &Silent)
        .unwrap_err();
    ctrl_c.join().unwrap();
    assert!(matches!(error, XtaskError::Interrupted), "{error}");
    assert!(files.iter().all(|file| has_ended(file)));
}

#[test]
fn a_contestant_that_ends_is_named_with_its_last_output() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("good");
    let bad = "echo step 1; echo step 1; echo loading; echo out of luck >&2; exit 3";
    let contestants = [with_id("good", &file, STEPS), Contestant::shell("bad", bad)];
    let error = run(&contestants).unwrap_err().to_string();
    assert!(error.starts_with("bad (sh)"), "{error}");
    for expected in ["exit status: 3", "loading", "out of luck"] {
        assert!(error.contains(expected), "{error}");
    }
    #[cfg(target_os = "linux")]
    assert!(has_ended(&file));
}

#[test]
fn a_killed_contestant_is_named_with_a_hint_at_memory() {
    let killed = format!("(sleep 0.1; kill -KILL $$) & {STEPS}");
    let contestants = [
        Contestant::shell("good", STEPS),
        Contestant::shell("bad", &killed),
    ];
    let long = Alternation {
        cycles: 1_000_000,
        ..alternation()
    };
    let error = long.run("test", &contestants, &AtomicBool::new(false), &Silent);
    let error = error.unwrap_err().to_string();
    assert!(
        error.starts_with("bad (sh)") && error.contains("if memory ran out"),
        "{error}"
    );
}

#[test]
fn a_contestant_without_steps_in_its_slices_is_an_error() {
    let stuck = "echo step 1; echo step 1; exec sleep 1000";
    let error = run(&[Contestant::shell("stuck", stuck)])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("expected a step in 3 slices") && error.contains("--slice"),
        "{error}"
    );
}

#[test]
fn the_order_is_a_function_of_seed_and_cycle() {
    let orders = |seed| {
        let alternation = Alternation {
            seed,
            ..alternation()
        };
        (0..20)
            .map(|cycle| alternation.order(cycle, 4))
            .collect::<Vec<_>>()
    };
    assert_eq!(orders(1), orders(1));
    assert_ne!(orders(1), orders(2));
    for mut order in orders(1) {
        order.sort_unstable();
        assert_eq!(order, [0, 1, 2, 3]);
    }
    let firsts: Vec<usize> = orders(1).iter().map(|order| order[0]).collect();
    assert!((0..4).all(|index| firsts.contains(&index)), "{firsts:?}");
}
