//! One process at a time writes a run, and others leave it alone: starts at once, resumes of what is at work, sweeps, commands that read.

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
fn two_starts_at_once_have_a_directory_each() {
    let place = Sandbox::new(PROGRAM);
    let starts = [3, 4].map(|seed| {
        let start =
            format!("train --preset quickstart --config tiny.toml --epochs 2 --seed {seed}");
        place.command(&start).spawn().unwrap()
    });
    for start in starts {
        let output = start.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
    let names = names_in(&place.path("runs"));
    assert_eq!(names, ["shapes-quickstart-1", "shapes-quickstart-2"]);
    let seeds = names
        .iter()
        .map(|name| seed_of(&place.path("runs").join(name)));
    assert_eq!(seeds.collect::<BTreeSet<_>>(), BTreeSet::from([3, 4]));
    let said = place.succeed("runs --json");
    let runs: Vec<Value> = serde_json::from_str(&said.out).unwrap();
    for run in runs {
        assert_eq!(
            (&run["state"], &run["epochs"]),
            (&"finished".into(), &2.into())
        );
    }
}

/// The seed in the recipe of a run, whose state has to be of the same.
fn seed_of(root: &Path) -> u64 {
    let run = RunDirectory::open(root).unwrap();
    let recipe = Recipe::read(&run.recipe()).unwrap();
    TrainingState::read(&run, &run.state(), &recipe).unwrap();
    recipe.training.seed
}

#[test]
fn a_second_start_in_the_same_directory_is_refused() {
    let run = Run::new(PROGRAM, "");
    let held = RunDirectory::create(run.path("")).unwrap();
    let output = run.start().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    let process = format!("is in use by process {}, since 2", std::process::id());
    assert!(
        said.contains(&process) && said.contains("choose another --output"),
        "{said}"
    );
    assert!(!run.path("training/recipe.toml").exists());
    drop(held);
    assert!(!run.path("").exists());
    finished(run.start());
}

/// A start that fails leaves no directory behind.
#[test]
fn what_could_not_begin_leaves_nothing_behind() {
    let place = Sandbox::new(PROGRAM);
    for at in ["", "--output a/b"] {
        let said = place.run(&format!(
            "train --preset quickstart --config tiny.toml --set model.num_heads=0 {at}"
        ));
        assert_ne!(said.code, Some(0));
        let said = place.run(&format!("train --dataset folder:nowhere {at}"));
        assert_eq!(said.code, Some(1));
    }
    assert_eq!(names_in(&place.path("")), ["tiny.toml"]);
}

fn is_at_work(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_none()
}

/// Resumes again and again, and everything that reads, while the run trains and saves in every step.
#[test]
fn resumes_of_a_run_that_is_at_work_do_it_no_harm() {
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
        let said = String::from_utf8(output.stderr).unwrap();
        if output.status.code() == Some(1) {
            assert!(
                said.contains(&writer) && said.contains("wait until that process ends"),
                "{said}"
            );
            refused += 1;
        } else {
            assert!(said.contains("already finished"), "{said}");
        }
        let listed = run.place.succeed("runs run --json").out;
        running += usize::from(listed.contains("\"state\": \"running\""));
        run.place
            .succeed("evaluate --checkpoint run --dataset folder:photos");
        run.place.succeed("report run --output elsewhere.html");
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        refused > 0 && running > 0,
        "{refused} refused, {running} running"
    );
    run.assert_same_end(&expected);
    assert!(!run.path("training/lock.json").exists());
}

/// The lock of a process that was killed is nobody's, though the file stays.
#[cfg(unix)]
#[test]
fn the_lock_of_a_killed_process_keeps_nobody_out() {
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
    let listed = run.place.succeed("runs run --json").out;
    assert!(listed.contains("unfinished"), "{listed}");
    finished(run.resume(""));
    assert!(!run.path("training/lock.json").exists());
}

#[test]
fn a_second_sweep_in_the_same_directory_is_refused() {
    let place = Sandbox::new(PROGRAM);
    place.write("sweep.toml", "[[variant]]\nname = 'one'\n");
    let held = DirectoryLock::take(&place.path("compared")).unwrap();
    let sweep = "train --preset quickstart --config tiny.toml --sweep sweep.toml --output compared";
    let said = place.run(sweep);
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("compared is in use by process"),
        "{}",
        said.err
    );
    drop(held);
    place.succeed(sweep);
    assert_eq!(
        names_in(&place.path("compared")),
        ["one-seed0", "sweep.json", "sweep.md"]
    );
}

/// Everything the program writes is for whom the umask lets read.
#[cfg(unix)]
#[test]
fn every_file_has_its_mode_by_the_umask() {
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

    let place = Run::new(PROGRAM, "").place; // with photos
    let under = |umask: &str, arguments: &str| {
        let program = place.command(arguments);
        let output = Command::new("sh")
            .args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")])
            .arg(program.get_program())
            .args(program.get_args())
            .current_dir(place.path(""))
            .output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    };
    for (umask, file_mode) in [("022", 0o644), ("077", 0o600)] {
        let out = format!("out-{umask}");
        let run = format!("{out}/run");
        let picture = "photos/class-0/0.png";
        for arguments in [
            format!("train --preset quickstart --config tiny.toml --epochs 1 --output {run}"),
            format!("report {run} --output {out}/report.html"),
            format!("attention --checkpoint {run} {picture} --output {out}/attention.png"),
            format!("shard --dataset folder:photos --output {out}/shards"),
            format!("man --output {out}/man"),
        ] {
            under(umask, &arguments);
        }
        assert!(check(&place.path(&out), file_mode) > 15);
    }
}
