//! Damaged files of a run, and places that cannot be written: each is detected and named, no other file
//! changes, and a remedy exists.

mod checkpoint;
mod config;
mod disk;
mod kinds;
mod safetensors;
mod state;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use perceiver_tests::run::{Run, finished, several_epochs};

/// Commands that read the weights of `run`, each of which must reject invalid ones.
const WITH_WEIGHTS: [&str; 6] = [
    "predict --checkpoint run photos/class-0/0.png",
    "evaluate --checkpoint run",
    "attention --checkpoint run --output map.png photos/class-0/0.png",
    "verify run",
    "push --checkpoint run --repo me/x --dry-run",
    "train --dataset folder:photos --config tiny.toml --init-from run --output other",
];

/// Returns a short run whose state has every kind of tensor.
fn trained() -> Run {
    let run = Run::new(
        env!("CARGO_BIN_EXE_perceiver-under-test"),
        "ema_decay = 0.9\n",
    );
    let recipe =
        several_epochs().replace("epochs = 6\nbatch_size = 7", "epochs = 3\nbatch_size = 25");
    run.sandbox.write("tiny.toml", recipe + "ema_decay = 0.9\n");
    finished(run.start());
    run
}

/// Returns every file below a directory, with its content.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.append(&mut files(&path));
        } else {
            all.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    all
}

/// Runs a command that must fail without changing a file, and returns its error message.
fn refused(run: &Run, arguments: &str, what: &str) -> String {
    let before = files(&run.path(""));
    let output = run.sandbox.run(arguments);
    assert_eq!(output.code, Some(1), "{what}: {}", output.err);
    assert!(!output.err.contains("panicked"), "{what}: {}", output.err);
    assert!(files(&run.path("")) == before, "{what}: a file was changed");
    output.err
}

fn assert_mentions(message: &str, parts: &[&str], what: &str) {
    for part in parts {
        assert!(
            message.contains(part),
            "{what}: expected {part:?} in {message}"
        );
    }
}
