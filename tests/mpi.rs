//! Training under a real `mpirun`: the same results as one process, and runs that lose a rank or a
//! host, or are interrupted.
//!
//! Requires Open MPI: `cargo test -p perceiver-tests --features mpi --test mpi`.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use perceiver_tests::program::{Sandbox, TINY_MODEL};
use perceiver_tests::run::Run;
use perceiver_train::{EpochMetrics, MetricsFile};

const PROGRAM: &str = env!("CARGO_BIN_EXE_perceiver-under-test");

/// Many short epochs, with a checkpoint every few steps.
const LONG: &str = "
[data]
limit_train = 100
limit_test = 20
[training]
epochs = 40
batch_size = 6
early_stopping = { patience = 40 }
checkpoint_every = 5
";

fn new_sandbox() -> Sandbox {
    let sandbox = Sandbox::new(PROGRAM);
    sandbox.write("long.toml", format!("{TINY_MODEL}{LONG}"));
    sandbox
}

/// Returns an `mpirun` command in the sandbox, also for root and for more ranks than cores.
fn mpirun(sandbox: &Sandbox, arguments: &str) -> Command {
    let mut command = Command::new("mpirun");
    command
        .arg("--oversubscribe")
        .args(arguments.split_whitespace())
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("RAYON_NUM_THREADS", "1")
        .env_remove("RUST_LOG")
        .current_dir(sandbox.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn train(sandbox: &Sandbox, ranks: usize, run: &str) -> Command {
    let start =
        format!("-n {ranks} {PROGRAM} train --preset quickstart --config long.toml --output {run}");
    mpirun(sandbox, &start)
}

fn resume(sandbox: &Sandbox, ranks: usize, run: &str) -> Command {
    mpirun(
        sandbox,
        &format!("-n {ranks} {PROGRAM} train --resume {run}"),
    )
}

/// Returns all output of a job, after asserting whether it succeeded.
fn text_of(output: &Output, succeeds: bool) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert_eq!(output.status.success(), succeeds, "{text}");
    text
}

fn finished(mut command: Command) -> String {
    text_of(&command.output().unwrap(), true)
}

/// Reads the metrics of a run, without timings.
fn metrics(sandbox: &Sandbox, run: &str) -> Vec<EpochMetrics> {
    let epochs = MetricsFile::read(sandbox.path(run).join("metrics.jsonl")).unwrap();
    let timeless = |epoch| EpochMetrics {
        seconds: 0.0,
        images_per_second: 0.0,
        ..epoch
    };
    epochs.into_iter().map(timeless).collect()
}

fn weights(sandbox: &Sandbox, run: &str) -> Vec<u8> {
    fs::read(sandbox.path(run).join("model.safetensors")).unwrap()
}

/// Waits until a job has saved a state, and a moment longer.
fn wait_until_saved(sandbox: &Sandbox, run: &str, job: &mut Child) {
    let state = sandbox
        .path(run)
        .join("training/state.previous.safetensors");
    while !state.exists() {
        assert!(job.try_wait().unwrap().is_none(), "the job has ended");
        sleep(Duration::from_millis(1));
    }
    sleep(Duration::from_millis(30));
}

/// Returns the loss of every step of the first epoch, computed from the logged running means.
fn losses(output: &str) -> Vec<f64> {
    let means = output.lines().filter_map(|line| {
        let (_, step) = line.split_once("TRACE step ")?;
        let (step, mean) = step.split_once(": mean loss of the epoch so far ")?;
        let mean = mean.split_whitespace().next()?;
        Some((step.parse::<f64>().unwrap(), mean.parse::<f64>().unwrap()))
    });
    let mut before = 0.0;
    let losses = means.map(|(step, mean)| {
        let sum = mean * step;
        sum - std::mem::replace(&mut before, sum)
    });
    losses.collect()
}

#[test]
fn one_to_four_ranks_have_the_losses_and_the_test_accuracy_of_one() {
    let sandbox = new_sandbox();
    let run = |ranks: usize| {
        let mut command = mpirun(
            &sandbox,
            &format!(
                "-n {ranks} {PROGRAM} train --preset quickstart --batch-size 16 --set training.parallel_micro_batches=1 \
                 --limit-train 889 --limit-test 400 --epochs 1 --output run-{ranks}"
            ),
        );
        command.env("RUST_LOG", "info,perceiver_cli=trace");
        let losses = losses(&finished(command));
        assert_eq!(losses.len(), 50, "steps of 16 pictures");
        let results = fs::read(sandbox.path(format!("run-{ranks}/results.json"))).unwrap();
        let results: serde_json::Value = serde_json::from_slice(&results).unwrap();
        (losses, results["acc"].clone(), results["top5_acc"].clone())
    };
    let (expected, acc, top5_acc) = run(1);
    for ranks in 2..=4 {
        let (losses, actual, actual_top5) = run(ranks);
        for (step, (actual, expected)) in losses.iter().zip(&expected).enumerate() {
            let relative = (actual / expected - 1.0).abs();
            assert!(
                relative < 1e-6,
                "step {step} of {ranks} ranks: {relative:e}"
            );
        }
        assert_eq!((actual, actual_top5), (acc.clone(), top5_acc.clone()));
    }
}

#[test]
fn ranks_stream_the_same_samples_as_one_process() {
    let sandbox = Run::new(PROGRAM, "").sandbox;
    sandbox.succeed("shard --dataset folder:photos --output shards --shard-size 17");
    let recipe = "\n[training]\nepochs = 1\nbatch_size = 7\n[data]\nshuffle_buffer = 30\n[data.augmentation.mixing]\nmixup = 0.4\n";
    sandbox.write("streamed.toml", format!("{TINY_MODEL}{recipe}"));
    let run = |ranks: usize| {
        let start = format!(
            "-n {ranks} {PROGRAM} train --preset quickstart --dataset shards:shards --config streamed.toml --output run-{ranks}"
        );
        let mut command = mpirun(&sandbox, &start);
        command.env("RUST_LOG", "info,perceiver_cli=trace");
        let losses = losses(&finished(command));
        assert_eq!(losses.len(), 17, "steps of 7 pictures of 116");
        let results = fs::read(sandbox.path(format!("run-{ranks}/results.json"))).unwrap();
        let results: serde_json::Value = serde_json::from_slice(&results).unwrap();
        (losses, results["sha256"].clone(), results["acc"].clone())
    };
    let (expected, sha256, acc) = run(1);
    for ranks in [2, 3] {
        let (losses, actual, actual_acc) = run(ranks);
        for (step, (actual, expected)) in losses.iter().zip(&expected).enumerate() {
            let relative = (actual / expected - 1.0).abs();
            assert!(
                relative < 1e-6,
                "step {step} of {ranks} ranks: {relative:e}"
            );
        }
        assert_eq!((actual, actual_acc), (sha256.clone(), acc.clone()));
    }
}

/// Returns the process ID of rank `rank` of the job in the sandbox.
#[cfg(target_os = "linux")]
fn process_of(sandbox: &Sandbox, rank: usize) -> String {
    let variable = format!("OMPI_COMM_WORLD_RANK={rank}");
    let here = fs::canonicalize(sandbox.path("")).unwrap();
    let processes = fs::read_dir("/proc").unwrap();
    let mut numbers = processes.filter_map(|process| {
        let process = process.unwrap().path();
        let is_ours = fs::read_link(process.join("cwd")).ok()? == here;
        let environment = fs::read(process.join("environ")).ok()?;
        let mut variables = environment.split(|&byte| byte == 0);
        let is_rank = variables.any(|entry| entry == variable.as_bytes());
        (is_ours && is_rank).then(|| process.file_name().unwrap().to_string_lossy().into_owned())
    });
    numbers.next().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn killed_ranks_end_the_job_which_resumes_with_any_number() {
    let sandbox = new_sandbox();
    finished(train(&sandbox, 2, "undisturbed"));
    for (rank, run) in ["first", "second"].into_iter().enumerate() {
        let mut job = train(&sandbox, 2, run).spawn().unwrap();
        wait_until_saved(&sandbox, run, &mut job);
        let killed = Command::new("kill")
            .args(["-KILL", &process_of(&sandbox, rank)])
            .status();
        assert!(killed.unwrap().success());
        let output = text_of(&job.wait_with_output().unwrap(), false);
        // Messages of `mpirun` and of the program.
        let who = format!("process rank {rank} with PID");
        assert!(
            output.contains(&who) && output.contains("on signal 9"),
            "{output}"
        );
        let words = "resume from the last saved state with: mpirun ... perceiver train --resume";
        assert!(output.contains(&format!("{words} {run}")), "{output}");
    }
    finished(resume(&sandbox, 2, "first"));
    assert_eq!(metrics(&sandbox, "first"), metrics(&sandbox, "undisturbed"));
    assert!(weights(&sandbox, "first") == weights(&sandbox, "undisturbed"));

    finished(resume(&sandbox, 3, "second"));
    let pairs = metrics(&sandbox, "second")
        .into_iter()
        .zip(metrics(&sandbox, "undisturbed"));
    let pairs = pairs.collect::<Vec<_>>();
    assert_eq!(pairs.len(), 40);
    for (actual, expected) in pairs {
        let relative = (actual.val_loss / expected.val_loss - 1.0).abs();
        assert!(relative < 1e-4, "{relative:e} in epoch {}", actual.epoch);
    }
}

#[test]
fn ranks_with_different_settings_are_rejected_with_both_values() {
    let sandbox = new_sandbox();
    let job = |first: &str, second: &str| {
        let rank = |more: &str| {
            format!(
                "-n 1 {PROGRAM} train --preset quickstart --config long.toml --output run {more}"
            )
        };
        let output = mpirun(&sandbox, &format!("{} : {}", rank(first), rank(second))).output();
        assert!(!sandbox.path("run").exists(), "nothing is written");
        text_of(&output.unwrap(), false)
    };
    let flags = job("--seed 1", "--seed 2");
    let expected = "has training.seed = 2, but rank 0 has 1";
    assert!(
        flags.contains("rank 1 on ") && flags.contains(expected),
        "{flags}"
    );
    let data = job("--limit-train 80", "--limit-train 90");
    let expected = "has data.limit_train = 90, but rank 0 has 80";
    assert!(
        data.contains("rank 1 on ") && data.contains(expected),
        "{data}"
    );
}

#[cfg(unix)]
#[test]
fn interrupted_jobs_save_and_resume() {
    let sandbox = new_sandbox();
    finished(train(&sandbox, 2, "undisturbed"));
    let mut job = train(&sandbox, 2, "run").spawn().unwrap();
    wait_until_saved(&sandbox, "run", &mut job);
    let asked = Command::new("kill")
        .args(["-INT", &job.id().to_string()])
        .status();
    assert!(asked.unwrap().success());
    let output = text_of(&job.wait_with_output().unwrap(), false);
    let expected = "saved; resume with: mpirun ... perceiver train --resume run";
    assert!(output.contains(expected), "{output}");
    assert!(metrics(&sandbox, "run").len() < 40);
    finished(resume(&sandbox, 2, "run"));
    assert!(weights(&sandbox, "run") == weights(&sandbox, "undisturbed"));
}

/// Two hosts: network namespaces, each with an address and a network interface.
#[cfg(target_os = "linux")]
struct Hosts {
    names: [String; 2],
}

#[cfg(target_os = "linux")]
impl Hosts {
    const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

    /// Creates the hosts; an error with the reason if the system does not permit it.
    fn new() -> Result<Self, String> {
        let names = ["a", "b"].map(|host| format!("per{host}{}", std::process::id()));
        let hosts = Self { names };
        let [a, b] = &hosts.names;
        ip(&format!("netns add {a}"))?;
        ip(&format!("netns add {b}"))?;
        ip(&format!(
            "link add {a} netns {a} type veth peer name {b} netns {b}"
        ))?;
        for (host, address) in hosts.names.iter().zip(Self::ADDRESSES) {
            ip(&format!("-n {host} addr add {address}/24 dev {host}"))?;
            ip(&format!("-n {host} link set lo up"))?;
            ip(&format!("-n {host} link set {host} up"))?;
        }
        Ok(hosts)
    }

    /// Returns a job of one rank per host, launched on the first, that detects a lost host.
    fn mpirun(&self, sandbox: &Sandbox, program: &str) -> Command {
        let [a, b] = &self.names;
        let [on_a, on_b] = Self::ADDRESSES;
        sandbox.write("hosts", format!("{on_a} slots=1\n{on_b} slots=1\n"));
        // Replaces ssh.
        let agent = format!(
            "#!/bin/sh\ncase $1 in {on_a}) host={a};; *) host={b};; esac\nshift\nexec ip netns exec $host sh -c \"$*\"\n"
        );
        sandbox.write("agent", agent);
        let agent = sandbox.path("agent");
        make_executable(&agent);
        let within = mpirun(
            sandbox,
            &format!(
                "-n 2 --hostfile hosts --bind-to none --mca plm_rsh_agent {} --mca oob_tcp_if_include 10.77.0.0/24 \
                 --mca btl tcp,self --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_keepalive_time 10 \
                 --mca oob_tcp_keepalive_intvl 5 --mca oob_tcp_keepalive_probes 3 {PROGRAM} {program}",
                agent.display()
            ),
        );
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", a, "mpirun"])
            .args(within.get_args())
            .envs(
                within
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .current_dir(sandbox.path(""))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn processes(&self, host: usize) -> String {
        ip(&format!("netns pids {}", self.names[host])).unwrap()
    }
}

#[cfg(target_os = "linux")]
impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

#[cfg(target_os = "linux")]
fn ip(arguments: &str) -> Result<String, String> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let stderr = String::from_utf8_lossy(&output.stderr);
        Err(format!("ip {arguments}: {stderr}"))
    }
}

#[cfg(target_os = "linux")]
fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_disconnected_host_ends_the_job_on_both_sides() {
    let sandbox = new_sandbox();
    let hosts = match Hosts::new() {
        Ok(hosts) => hosts,
        Err(reason) => {
            println!("not tested, as there are no network namespaces here: {reason}");
            return;
        }
    };
    let start = |run: &str| format!("train --preset quickstart --config long.toml --output {run}");
    finished(hosts.mpirun(&sandbox, &start("undisturbed")));

    let mut job = hosts.mpirun(&sandbox, &start("run")).spawn().unwrap();
    wait_until_saved(&sandbox, "run", &mut job);
    ip(&format!("-n {0} link set {0} down", hosts.names[1])).unwrap();
    let output = text_of(&job.wait_with_output().unwrap(), false);
    let [_, lost] = Hosts::ADDRESSES;
    assert!(
        output.contains("lost communication with a remote daemon"),
        "{output}"
    );
    assert!(output.contains(lost), "{output}");
    let words = "resume from the last saved state with: mpirun ... perceiver train --resume run";
    assert!(output.contains(words), "{output}");
    while !hosts.processes(1).trim().is_empty() {
        sleep(Duration::from_millis(100)); // it detects the loss later
    }

    ip(&format!("-n {0} link set {0} up", hosts.names[1])).unwrap();
    finished(hosts.mpirun(&sandbox, "train --resume run"));
    assert_eq!(metrics(&sandbox, "run"), metrics(&sandbox, "undisturbed"));
    assert!(weights(&sandbox, "run") == weights(&sandbox, "undisturbed"));
}
