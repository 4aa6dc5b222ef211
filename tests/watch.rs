//! Watching a run: the live report shows what happens, and changes nothing of the run.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::SystemTime;

use candle_core::Device;
use perceiver_tests::program::{Sandbox, tiny_recipe};
use perceiver_tests::run::{Run, finished};
use perceiver_tests::serving::Serving;
use perceiver_train::{
    Callback, CallbackResult, Callbacks, Control, Event, MetricsFile, Outcome, ProgressFile,
    RunDirectory, StepsCsv, Trainer, TrainingData,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_perceiver-under-test");

/// Requests a path by HTTP/1.0, whose answers end with the connection and come in one piece.
fn request(address: SocketAddr, head: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{head}\r\n\r\n").unwrap();
    stream
}

/// Returns the whole answer.
fn answer(address: SocketAddr, head: &str) -> String {
    let mut answer = String::new();
    let _ = request(address, head).read_to_string(&mut answer); // a refused connection may be reset
    answer
}

fn page(address: SocketAddr) -> String {
    answer(address, "GET / HTTP/1.0\r\nHost: localhost")
}

/// A page that follows a run, as its script does.
struct Follower {
    address: SocketAddr,
    events: BufReader<TcpStream>,
    /// What the run did at last.
    status: String,
}

impl Follower {
    fn new(address: SocketAddr) -> Self {
        let stream = request(address, "GET /events HTTP/1.0\r\nHost: localhost");
        let mut events = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(events.read_line(&mut head).unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.0 200"), "{head}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        Self {
            address,
            events,
            status: String::new(),
        }
    }

    /// Returns the name and the data of the next event; none at the end.
    fn next(&mut self) -> Option<(String, String)> {
        let (mut name, mut data) = (String::new(), String::new());
        loop {
            let mut line = String::new();
            if self.events.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end().split_once(": ") {
                Some(("event", text)) => name = text.to_string(),
                Some(("data", text)) => data = text.to_string(),
                _ if name.is_empty() => {}
                _ => break,
            }
        }
        if name == "status" {
            self.status.clone_from(&data);
        }
        Some((name, data))
    }

    /// Fetches every new version of the page until one contains `text`.
    fn wait_for(&mut self, text: &str) -> String {
        loop {
            let (name, data) = self.next().expect("events until the page is as expected");
            if name != "version" {
                continue;
            }
            let page = page(self.address);
            let version = page.split("data-version=\"").nth(1).unwrap();
            let version = version.split('"').next().unwrap();
            assert!(version.parse::<u64>().unwrap() >= data.parse().unwrap());
            if page.contains(text) {
                return page;
            }
        }
    }
}

fn trainer(root: &Path) -> Trainer {
    let recipe = tiny_recipe("training.epochs = 5");
    let data = TrainingData::load(&recipe).unwrap();
    let run = RunDirectory::create(root).unwrap();
    Trainer::start(recipe, data, run, Device::Cpu).unwrap()
}

fn files(run: &RunDirectory) -> Callbacks {
    vec![
        Box::new(MetricsFile::new(run.metrics())),
        Box::new(StepsCsv::new(run.steps())),
        Box::new(ProgressFile::new(run.progress())),
    ]
}

/// Waits at the end of every epoch until the page shows it, and kills the watcher after the third.
struct WaitForPage {
    watcher: Option<Serving>,
    follower: Follower,
    seen: Vec<String>,
}

impl Callback for WaitForPage {
    fn on_event(&mut self, event: &Event<'_>) -> CallbackResult {
        if let (Some(epoch), Some(_)) = (event.last_epoch(), &self.watcher) {
            let shown = format!("<dt>Epochs</dt><dd>{}</dd>", epoch.epoch);
            self.seen.push(self.follower.wait_for(&shown));
            if self.seen.len() == 3 {
                self.watcher = None;
            }
        }
        Ok(Control::Continue)
    }
}

#[test]
fn epochs_appear_and_the_watcher_changes_no_bit_of_the_run() {
    let sandbox = Sandbox::new(PROGRAM);
    let mut alone = trainer(&sandbox.path("alone"));
    let mut callbacks = files(alone.run());
    assert_eq!(alone.fit(&mut callbacks).unwrap(), Outcome::Finished);

    let mut watched = trainer(&sandbox.path("run"));
    let watcher = Serving::of(&sandbox, "watch run --port 0");
    assert!(page(watcher.address).contains("No epoch is complete yet."));
    let mut page = WaitForPage {
        follower: Follower::new(watcher.address),
        watcher: Some(watcher),
        seen: Vec::new(),
    };
    let mut callbacks = files(watched.run());
    let mut both = |event: &Event<'_>| {
        callbacks.on_event(event)?;
        page.on_event(event)
    };
    assert_eq!(watched.fit(&mut both).unwrap(), Outcome::Finished);
    drop(callbacks);

    assert_eq!(page.seen.len(), 3);
    for (index, text) in page.seen.iter().enumerate() {
        let epochs = index + 1;
        // The curves have a point for each epoch.
        let curve = text
            .split("\"name\":\"validation\",\"timeline\":0,\"points\":[[")
            .nth(1);
        let points = curve.unwrap().split("]]").next().unwrap();
        assert_eq!(points.split("],[").count(), epochs, "{points}");
    }
    let status: serde_json::Value = serde_json::from_str(&page.follower.status).unwrap();
    assert_eq!(status["label"], "Training", "{status}");
    assert!(
        status["position"].as_str().unwrap().starts_with("epoch "),
        "{status}"
    );

    for file in ["model.safetensors", "config.json"] {
        let [a, b] = ["alone", "run"].map(|run| fs::read(sandbox.path(run).join(file)).unwrap());
        assert!(a == b, "{file}");
    }
    let same = |trainer: &Trainer| {
        let epochs = trainer.history().iter();
        let epochs = epochs.map(|epoch| (epoch.loss.to_bits(), epoch.val_loss.to_bits()));
        epochs.collect::<Vec<_>>()
    };
    assert_eq!(same(&alone), same(&watched));
    assert!(!watched.run().progress().exists());
}

#[test]
fn a_training_serves_its_own_page_to_the_end() {
    let undisturbed = Run::new(PROGRAM, "");
    let mut program = undisturbed.start();
    program.args(["--epochs", "30"]);
    finished(program);

    let run = Run::new(PROGRAM, "");
    let mut program = run.start();
    program.args(["--epochs", "30", "--dashboard=0"]);
    let mut training = program.spawn().unwrap();
    let mut log = BufReader::new(training.stderr.take().unwrap());
    let mut follower = loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "no address");
        if let Some((_, address)) = line.trim().split_once("updated while it trains: http://") {
            break Follower::new(address.parse().unwrap());
        }
    };
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    let page = follower.wait_for("<b>Finished</b>");
    assert!(page.contains("<dt>Test accuracy</dt>"), "results are shown");
    while let Some((name, _)) = follower.next() {
        assert!(["status", "version", "end"].contains(&name.as_str()));
    }
    assert!(training.wait().unwrap().success());
    run.assert_same_end(&undisturbed);
}

/// Returns the time and size of every file below a directory.
fn stamps(directory: &Path) -> BTreeMap<String, (SystemTime, u64)> {
    let mut stamps = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        let stamp = (metadata.modified().unwrap(), metadata.len());
        stamps.insert(entry.path().display().to_string(), stamp);
        if metadata.is_dir() {
            stamps.extend(self::stamps(&entry.path()));
        }
    }
    stamps
}

#[test]
fn finished_runs_are_shown_to_this_machine_and_left_alone() {
    let sandbox = Sandbox::new(PROGRAM);
    sandbox.succeed("train --preset quickstart --config tiny.toml --output run");
    let before = stamps(&sandbox.path("run"));
    let watcher = Serving::of(&sandbox, "watch run --port 0");
    let get = |path: &str, host: &str| {
        answer(
            watcher.address,
            &format!("GET {path} HTTP/1.0\r\nHost: {host}"),
        )
    };
    let page = get("/", "localhost");
    assert!(page.starts_with("HTTP/1.0 200"), "{page}");
    for expected in [
        "<b>Finished</b>",
        "<dt>Test accuracy</dt>",
        "href=\"/report.html\"",
        "content-security-policy: default-src 'none';",
        "connect-src 'self'",
        "cache-control: no-store",
    ] {
        assert!(page.contains(expected), "{expected}");
    }
    let report = get("/report.html", "127.0.0.1:8081");
    let (_, report) = report.split_once("\r\n\r\n").unwrap();
    assert_eq!(
        report,
        fs::read_to_string(sandbox.path("run/report.html")).unwrap()
    );

    assert!(get("/", "evil.test").starts_with("HTTP/1.0 421"));
    assert!(get("/events", "evil.test:8081").starts_with("HTTP/1.0 421"));
    for path in [
        "/model.safetensors",
        "/../run/config.json",
        "/report.html/x",
    ] {
        assert!(get(path, "localhost").starts_with("HTTP/1.0 404"), "{path}");
    }
    let post = answer(
        watcher.address,
        "POST / HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0",
    );
    assert!(post.starts_with("HTTP/1.0 405"), "{post}");

    let follower = Follower::new(watcher.address);
    watcher.terminate();
    assert_eq!(watcher.ended(), Some(0));
    drop(follower);
    assert_eq!(stamps(&sandbox.path("run")), before);
}

#[test]
fn a_port_in_use_is_an_error_if_it_was_asked_for() {
    let sandbox = Sandbox::new(PROGRAM);
    sandbox.succeed("train --preset quickstart --config tiny.toml --output run");
    let watcher = Serving::of(&sandbox, "watch run --port 0");
    let port = watcher.address.port();
    let output = sandbox.run(&format!("watch run --port {port}"));
    assert_eq!(output.code, Some(1));
    assert!(
        output.err.contains("choose another port") && output.err.contains(&port.to_string()),
        "{}",
        output.err
    );
    let output = sandbox.run("watch runn");
    assert_eq!(output.code, Some(2));
    assert!(output.err.contains("did you mean run?"), "{}", output.err);
}
