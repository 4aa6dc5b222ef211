//! One process at a time writes a run. Concurrent starts, resumes, sweeps and readers do not
//! disturb it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Child;
use std::thread::sleep;
use std::time::Duration;

use perceiver_tests::program::{Sandbox, names_in};
use perceiver_tests::run::{Run, finished};
use perceiver_train::{DirectoryLock, Recipe, RunDirectory, TrainingState};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_perceiver-under-test");

#[test]
fn concurrent_starts_get_separate_directories() {
    let sandbox = Sandbox::new(PROGRAM);
    let starts = [3, 4].map(|seed| {
        let start =
            format!("train --preset quickstart --config tiny.toml --epochs 2 --seed {seed}");
        sandbox.command(&start).spawn().unwrap()
    });
    for start in starts {
        let output = start.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
    }
    let names = names_in(&sandbox.path("runs"));
    assert_eq!(names, ["shapes-quickstart-1", "shapes-quickstart-2"]);
    let seeds = names
        .iter()
        .map(|name| seed_of(&sandbox.path("runs").join(name)));
    assert_eq!(seeds.collect::<BTreeSet<_>>(), BTreeSet::from([3, 4]));
    let output = sandbox.succeed("runs --json");
    let runs: Vec<Value> = serde_json::from_str(&output.out).unwrap();
    for run in runs {
        assert_eq!(
            (&run["state"], &run["epochs"]),
            (&"finished".into(), &2.into())
        );
    }
}

/// Returns the seed in the recipe of a run, after checking that its state belongs to the recipe.
fn seed_of(root: &Path) -> u64 {
    let run = RunDirectory::open(root).unwrap();
    let recipe = Recipe::read(run.recipe()).unwrap();
    TrainingState::read(&run, &run.state(), &recipe).unwrap();
    recipe.training.seed
}

#[test]
fn a_second_start_in_the_same_directory_is_rejected() {
    let run = Run::new(PROGRAM, "");
    let held = RunDirectory::create(run.path("")).unwrap();
    let output = run.start().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let process = format!("is in use by process {}, since 2", std::process::id());
    assert!(
        stderr.contains(&process) && stderr.contains("choose another --output"),
        "{stderr}"
    );
    assert!(!run.path("training/recipe.toml").exists());
    drop(held);
    assert!(!run.path("").exists());
    finished(run.start());
}

#[test]
fn failed_starts_leave_no_files() {
    let sandbox = Sandbox::new(PROGRAM);
    for at in ["", "--output a/b"] {
        let output = sandbox.run(&format!(
            "train --preset quickstart --config tiny.toml --set model.num_heads=0 {at}"
        ));
        assert_ne!(output.code, Some(0));
        let output = sandbox.run(&format!("train --dataset folder:nowhere {at}"));
        assert_eq!(output.code, Some(1));
    }
    assert_eq!(names_in(&sandbox.path("")), ["tiny.toml"]);
}

fn is_at_work(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_none()
}

/// Resumes, evaluates and reports a run repeatedly while it trains and saves every step.
#[test]
fn resuming_an_active_run_does_not_disturb_it() {
    let expected = Run::new(PROGRAM, "checkpoint_every = 1\n");
    finished(expected.start());
    let run = Run::new(PROGRAM, "checkpoint_every = 1\n");
    let mut child = run.start().spawn().unwrap();
    while !run.path("model.safetensors").exists() && is_at_work(&mut child) {
        sleep(Duration::from_millis(1));
    }
    let writer = format!("is in use by process {}", child.id());
    let (mut refused, mut running) = (0, 0);
    while is_at_work(&mut child) {
        let output = run.resume("").output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        if output.status.code() == Some(1) {
            assert!(
                stderr.contains(&writer) && stderr.contains("wait until that process ends"),
                "{stderr}"
            );
            refused += 1;
        } else {
            assert!(stderr.contains("already finished"), "{stderr}");
        }
        let listed = run.sandbox.succeed("runs run --json").out;
        running += usize::from(listed.contains("\"state\": \"running\""));
        run.sandbox
            .succeed("evaluate --checkpoint run --dataset folder:photos");
        run.sandbox.succeed("report run --output elsewhere.html");
    }
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(
        refused > 0 && running > 0,
        "{refused} refused, {running} running"
    );
    run.assert_same_end(&expected);
    assert!(!run.path("training/lock.json").exists());
}

/// A killed process leaves its lock file behind, but no longer holds the lock.
#[cfg(unix)]
#[test]
fn stale_locks_of_killed_processes_are_taken_over() {
    let run = Run::new(PROGRAM, "checkpoint_every = 1\n");
    let mut child = run.start().spawn().unwrap();
    while !run.path("training/state.safetensors").exists() {
        assert!(is_at_work(&mut child));
        sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let lock = fs::read_to_string(run.path("training/lock.json")).unwrap();
    let lock: Value = serde_json::from_str(&lock).unwrap();
    assert_eq!(lock["pid"], child.id());
    let listed = run.sandbox.succeed("runs run --json").out;
    assert!(listed.contains("unfinished"), "{listed}");
    finished(run.resume(""));
    assert!(!run.path("training/lock.json").exists());
}

#[test]
fn a_second_sweep_in_the_same_directory_is_rejected() {
    let sandbox = Sandbox::new(PROGRAM);
    sandbox.write("sweep.toml", "[[variant]]\nname = 'one'\n");
    let held = DirectoryLock::take(&sandbox.path("compared")).unwrap();
    let sweep = "train --preset quickstart --config tiny.toml --sweep sweep.toml --output compared";
    let output = sandbox.run(sweep);
    assert_eq!(output.code, Some(1));
    assert!(
        output.err.contains("compared is in use by process"),
        "{}",
        output.err
    );
    drop(held);
    sandbox.succeed(sweep);
    assert_eq!(
        names_in(&sandbox.path("compared")),
        ["one-seed0", "sweep.html", "sweep.json", "sweep.md"]
    );
}

/// All files of the program are readable by whomever the umask permits.
#[cfg(unix)]
#[test]
fn file_modes_follow_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    fn check(directory: &Path, file_mode: u32) -> usize {
        let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
        let counts = entries.map(|entry| {
            let path = entry.path();
            if path.is_dir() {
                return check(&path, file_mode);
            }
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, file_mode, "{}: {mode:o}", path.display());
            1
        });
        counts.sum()
    }

    let sandbox = Run::new(PROGRAM, "").sandbox; // with photos
    let under = |umask: &str, arguments: &str| {
        let program = sandbox.command(arguments);
        let output = Command::new("sh")
            .args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")])
            .arg(program.get_program())
            .args(program.get_args())
            .current_dir(sandbox.path(""))
            .output();
        let output = output.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
    };
    for (umask, file_mode) in [("022", 0o644), ("077", 0o600)] {
        let out = format!("out-{umask}");
        let run = format!("{out}/run");
        let image = "photos/class-0/0.png";
        for arguments in [
            format!("train --preset quickstart --config tiny.toml --epochs 1 --output {run}"),
            format!("report {run} --output {out}/report.html"),
            format!("attention --checkpoint {run} {image} --output {out}/attention.png"),
            format!("shard --dataset folder:photos --output {out}/shards"),
            format!("man --output {out}/man"),
        ] {
            under(umask, &arguments);
        }
        assert!(check(&sandbox.path(&out), file_mode) > 15);
    }
}
