//! Ctrl-C during a benchmark in turns: the processes that it compares end with it.
#![cfg(target_os = "linux")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process, as in `/proc/ID/stat`: `ID (name) state parent group ...`.
struct Process {
    state: String,
    parent: String,
    group: String,
}

/// Returns all processes of the machine.
fn processes() -> Vec<Process> {
    let stat = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("stat")).ok();
    let stats = fs::read_dir("/proc").unwrap().flatten().filter_map(stat);
    let parse = |stat: String| {
        let mut fields = stat.rsplit(") ").next()?.split(' ').map(str::to_owned);
        Some(Process {
            state: fields.next()?,
            parent: fields.next()?,
            group: fields.next()?,
        })
    };
    stats.filter_map(parse).collect()
}

#[test]
fn ctrl_c_ends_all_processes_of_a_benchmark() {
    let command =
        "bench --only train --preset quickstart --batch-size 2 --slice 0.1 --cycles 1000000";
    let mut bench = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(command.split(' '))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(bench.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let first_cycle = lines.by_ref().find(|line| line.contains("cycle 1 of"));
    assert!(first_cycle.is_some(), "it ended early");

    let id = bench.id().to_string();
    let children = processes()
        .into_iter()
        .filter(|process| process.parent == id);
    let groups: Vec<String> = children.map(|child| child.group).collect();
    assert_eq!(groups.len(), 3, "ours in f32 and bf16, and products");
    kill(Pid::from_raw(bench.id().cast_signed()), Signal::SIGINT).unwrap();

    let last = lines.last().unwrap();
    assert!(last.contains("interrupted"), "{last}");
    assert_eq!(bench.wait().unwrap().code(), Some(130));
    // All have been killed; those that a contestant started may still be about to end.
    let is_left = |process: &Process| process.state != "Z" && groups.contains(&process.group);
    let have_ended = (0..1_000).any(|_| {
        sleep(Duration::from_millis(20));
        !processes().iter().any(is_left)
    });
    assert!(have_ended);
}
