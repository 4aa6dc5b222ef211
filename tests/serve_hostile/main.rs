//! Hostile requests to `perceiver serve`: none crashes it, hangs it or makes it use more memory than
//! its bound, and each is answered with a 4xx or closed at a timeout.
//!
//! The server has short timeouts and small limits by its flags, so that each is reached.
#![cfg(unix)]

mod bodies;
mod connections;
mod images;
mod kinds;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use perceiver_tests::program::Sandbox;
use perceiver_tests::serving::{Reply, Serving};

use crate::bodies::{content_types, forms, json_bodies};
use crate::connections::{heads, lengths, slow_and_broken};
use crate::images::{bombs, damaged_images, good_png, truncated_images};
use crate::kinds::{Kind, Kinds, Manner, Outcome};

/// The limits of the server under attack.
const FLAGS: &str = "--checkpoint runs/tiny -q --header-timeout 3s --body-timeout 3s --timeout 20s --write-timeout 1s \
    --max-body 1MiB --max-buffered 4MiB --max-pixels 1000000 --max-images 8 --connections 64 --queue 16";

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    sandbox.succeed("train --preset quickstart --config tiny.toml --output runs/tiny");
    sandbox
}

fn all_kinds() -> Vec<Kind> {
    let mut kinds = Kinds::default();
    truncated_images(&mut kinds);
    damaged_images(&mut kinds);
    bombs(&mut kinds);
    content_types(&mut kinds);
    forms(&mut kinds);
    json_bodies(&mut kinds);
    lengths(&mut kinds);
    heads(&mut kinds);
    slow_and_broken(&mut kinds);
    kinds.0
}

/// Sends a request in its manner, and returns the first answer; of status 0 if there was none.
fn sent(server: &Serving, manner: &Manner) -> Reply {
    let mut stream = server.connect();
    // A server that has answered may have closed the connection before all is sent.
    match manner {
        Manner::AtOnce(request) => drop(stream.get_mut().write_all(request)),
        Manner::HalfClosed(request) => {
            drop(stream.get_mut().write_all(request));
            drop(stream.get_ref().shutdown(Shutdown::Write));
        }
        Manner::Unread(request) => {
            drop(stream.get_mut().write_all(request));
            return Reply {
                status: 200,
                ..Reply::default()
            };
        }
        Manner::Trickle(first, rest, pause) => {
            drop(stream.get_mut().write_all(first));
            for byte in rest {
                thread::sleep(*pause);
                if stream.get_mut().write_all(&[*byte]).is_err() {
                    break;
                }
            }
        }
    }
    let reply = Reply::read(&mut stream).unwrap_or_default();
    // Each connection ends: at once, when it is idle for too long, or when its rest is dropped.
    let _ = stream.get_ref().shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
    reply
}

fn is_expected(outcome: Outcome, reply: &Reply) -> bool {
    let refused = (400..500).contains(&reply.status);
    match outcome {
        Outcome::Refused => refused,
        Outcome::Status(status) => reply.status == status,
        Outcome::RefusedOrClosed => refused || reply.status == 0,
        Outcome::Closed => reply.status == 0,
        Outcome::Answered => (200..500).contains(&reply.status),
    }
}

/// The bytes that requests may take by `Limits::memory_bound` of these flags, and what the model
/// takes for a prediction and for attention maps.
fn memory_bound() -> u64 {
    let limits = perceiver_serve::Limits {
        max_buffered: 4 << 20,
        max_pixels: 1_000_000,
        queue: 16,
        connections: 64,
        ..perceiver_serve::Limits::default()
    };
    limits.memory_bound(3 * 16 * 16 * 4) + (64 << 20)
}

#[test]
fn hostile_requests_are_refused_within_bounds() {
    let kinds = all_kinds();
    assert!(kinds.len() >= 200, "{} kinds", kinds.len());
    let sandbox = sandbox();
    let mut server = Serving::start(&sandbox, FLAGS);
    let good = good_png();
    assert_eq!(server.predict("/predict", &good).status, 200);
    let before = server.peak_memory();

    let (next, wrong) = (AtomicUsize::new(0), std::sync::Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(kind) = kinds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut reply = sent(&server, &kind.manner);
                    // The queue of this server is short; a full one says nothing about the kind.
                    while reply.status == 429 && kind.outcome != Outcome::Status(429) {
                        thread::sleep(Duration::from_millis(20));
                        reply = sent(&server, &kind.manner);
                    }
                    let is_json = reply.header("content-type") == Some("application/json");
                    let explains = !is_json || reply.status < 400 || !reply.code().is_empty();
                    if !is_expected(kind.outcome, &reply) || !explains {
                        let body = String::from_utf8_lossy(&reply.body)
                            .chars()
                            .take(300)
                            .collect::<String>();
                        let finding = format!(
                            "{}: expected {:?}, found {} {body}",
                            kind.name, kind.outcome, reply.status
                        );
                        wrong.lock().unwrap().push(finding);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(
        wrong.is_empty(),
        "{} of {} kinds:\n{}",
        wrong.len(),
        kinds.len(),
        wrong.join("\n")
    );
    assert!(server.runs(), "{}", server.log());
    assert_eq!(
        server.predict("/predict", &good).status,
        200,
        "{}",
        server.log()
    );
    assert!(!server.log().contains("panicked"), "{}", server.log());
    if let (Some(before), Some(after)) = (before, server.peak_memory()) {
        let grown = after - before;
        println!(
            "{} kinds; memory grew by {} MiB of {} MiB",
            kinds.len(),
            grown >> 20,
            memory_bound() >> 20
        );
        assert!(grown <= memory_bound(), "{grown}");
    }
}

/// Opens silent connections, and returns them.
fn silent(server: &Serving, count: usize) -> Vec<TcpStream> {
    (0..count)
        .map(|_| TcpStream::connect(server.address).unwrap())
        .collect()
}

/// While silent connections take all places, others are told so; and once their time is over, the
/// server answers again.
fn survives_connections(count: usize) {
    let sandbox = sandbox();
    let mut server = Serving::start(&sandbox, FLAGS);
    let good = good_png();
    assert_eq!(server.predict("/predict", &good).status, 200);
    let before = server.peak_memory();
    let open = silent(&server, count);
    let mut refused = 0;
    loop {
        let reply = server.predict("/predict", &good);
        match reply.status {
            200 => break,
            429 => refused += 1,
            0 => {} // reset: too many are being refused
            status => panic!("{status}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
    assert!(refused > 0, "no connection was refused");
    drop(open);
    assert!(server.runs());
    if let (Some(before), Some(after)) = (before, server.peak_memory()) {
        assert!(after - before <= memory_bound(), "{}", after - before);
    }
}

#[test]
fn silent_connections_take_no_place_for_long() {
    survives_connections(200);
}

#[test]
#[ignore = "needs more than 10,000 file descriptors in all (ulimit -n)"]
fn five_thousand_silent_connections_take_no_place_for_long() {
    survives_connections(5000);
}
