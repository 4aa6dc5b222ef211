//! `perceiver serve`: its predictions are those of `perceiver predict`, and it batches, refuses,
//! logs and stops as documented.
#![cfg(unix)]

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use candle_core::Device;
use perceiver_data::{Image, LoadOptions, Source, Split};
use perceiver_report::{Attention, Latents, Show};
use perceiver_tests::program::Sandbox;
use perceiver_tests::serving::{FORM, Reply, Serving, form, post};
use perceiver_train::Checkpoint;
use serde_json::{Value, json};

/// The number of test images.
const IMAGES: usize = 12;

/// A trained model in `runs/tiny`, and images of several sizes in `images`.
fn trained() -> Sandbox {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    sandbox.succeed("train --preset quickstart --config tiny.toml --output runs/tiny");
    fs::create_dir(sandbox.path("images")).unwrap();
    let shapes = Source::Shapes
        .load(Split::Test, &LoadOptions::default())
        .unwrap();
    for (index, image) in shapes.images().iter().take(IMAGES).enumerate() {
        let path = sandbox.path(format!("images/{index:02}.png"));
        image.write_png(path).unwrap();
    }
    let wide = (0..3 * 90 * 130).map(|at: usize| (at * at / 77 % 256) as u8);
    let wide = Image::new(90, 130, wide.collect()).unwrap();
    wide.write_png(sandbox.path("images/00.png")).unwrap();
    sandbox
}

fn image(sandbox: &Sandbox, index: usize) -> Vec<u8> {
    fs::read(sandbox.path(format!("images/{index:02}.png"))).unwrap()
}

/// Returns the classes that `perceiver predict` prints for each image.
fn predicted(sandbox: &Sandbox, flags: &str) -> Vec<Value> {
    let out = sandbox
        .succeed(&format!(
            "predict --checkpoint runs/tiny --json {flags} images"
        ))
        .out;
    let lines = out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| line["classes"].clone()).collect()
}

/// Asserts that classes are the same with the same probabilities, to the rounding of batches of
/// another size.
fn assert_same(found: &Value, expected: &Value) {
    let rows = |value: &Value| -> Vec<(String, f64)> {
        let rows = value.as_array().unwrap().iter();
        rows.map(|row| {
            (
                row["class"].as_str().unwrap().into(),
                row["probability"].as_f64().unwrap(),
            )
        })
        .collect()
    };
    let (found, expected) = (rows(found), rows(expected));
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found.0, expected.0);
        assert!(
            (found.1 - expected.1).abs() < 1e-6,
            "{found:?}, {expected:?}"
        );
    }
}

#[test]
fn predictions_are_those_of_the_command_in_every_form() {
    let sandbox = trained();
    let expected = predicted(&sandbox, "--top-k 3");
    let server = Serving::start(&sandbox, "--checkpoint runs/tiny --top-k 3");
    let one = image(&sandbox, 0);

    let raw = server.predict("/predict", &one);
    assert_eq!(raw.status, 200, "{raw:?}");
    let found = &raw.json()["predictions"][0];
    assert_same(&found["classes"], &expected[0]);
    assert_eq!(
        (&found["width"], &found["height"]),
        (&json!(130), &json!(90))
    );
    assert_eq!(raw.json()["model"], "tiny");

    let all: Vec<Vec<u8>> = (0..IMAGES).map(|index| image(&sandbox, index)).collect();
    let names: Vec<String> = (0..IMAGES).map(|index| format!("{index}.png")).collect();
    let files: Vec<_> = names
        .iter()
        .zip(&all)
        .map(|(name, image)| (name.as_str(), &image[..]))
        .collect();
    let of_form = server.send(&post("/predict", FORM, &form(&files))).json();
    let texts: Vec<String> = all.iter().map(|image| STANDARD.encode(image)).collect();
    let body = json!({"images": texts}).to_string();
    let of_json = server
        .send(&post("/predict", "application/json", body.as_bytes()))
        .json();
    for index in 0..IMAGES {
        let (in_form, in_json) = (
            &of_form["predictions"][index],
            &of_json["predictions"][index],
        );
        assert_eq!(in_form["image"], names[index]);
        assert_eq!(in_json["image"], format!("images[{index}]"));
        assert_same(&in_form["classes"], &expected[index]);
        assert_same(&in_json["classes"], &expected[index]);
    }
    let url = json!({"image": format!("data:image/png;base64,{}", texts[0])}).to_string();
    let of_url = server
        .send(&post(
            "/predict?top_k=1",
            "application/json",
            url.as_bytes(),
        ))
        .json();
    assert_eq!(
        of_url["predictions"][0]["classes"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        of_url["predictions"][0]["classes"][0]["class"],
        expected[0][0]["class"]
    );
}

#[test]
fn test_time_flip_is_that_of_the_command() {
    let sandbox = trained();
    let [plain, flipped] =
        ["--flip-average=false", "--flip-average"].map(|flag| predicted(&sandbox, flag));
    assert_ne!(plain[0], flipped[0]);
    let server = Serving::start(&sandbox, "--checkpoint runs/tiny --flip-average");
    let found = server.predict("/predict", &image(&sandbox, 0)).json();
    assert_same(&found["predictions"][0]["classes"], &flipped[0]);
    assert_eq!(server.get("/model").json()["test_time_flip"], true);
}

#[test]
fn attention_maps_are_those_of_the_model() {
    let sandbox = trained();
    let server = Serving::start(&sandbox, "--checkpoint runs/tiny");
    let bytes = image(&sandbox, 1);
    let found = server.predict("/predict?attention=true", &bytes).json();
    let found = &found["predictions"][0]["attention"];

    let checkpoint = Checkpoint::open(sandbox.path("runs/tiny"), &Device::Cpu).unwrap();
    let attention = Attention::of(&checkpoint, &Image::decode(&bytes, "image").unwrap()).unwrap();
    let maps = found["maps"].as_array().unwrap();
    assert_eq!(maps.len(), attention.iterations());
    for (map, iteration) in maps.iter().zip(1..) {
        let expected = attention
            .map(iteration, Latents::Mean, Show::Probabilities)
            .unwrap();
        assert_eq!(map["iteration"], iteration);
        assert_eq!(map["side"], expected.side);
        let weights: Vec<f32> = serde_json::from_value(map["weights"].clone()).unwrap();
        assert_eq!(weights.len(), expected.values.len());
        for (weight, expected) in weights.iter().zip(&expected.values) {
            assert!((weight - expected).abs() < 1e-6);
        }
        assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-4);
        let overlay = map["overlay"]
            .as_str()
            .unwrap()
            .strip_prefix("data:image/png;base64,")
            .unwrap();
        let overlay = Image::decode(&STANDARD.decode(overlay).unwrap(), "overlay").unwrap();
        assert_eq!(
            (overlay.height(), overlay.width()),
            (expected.side, expected.side)
        );
    }
    assert!(
        found["image"]
            .as_str()
            .unwrap()
            .starts_with("data:image/png;base64,")
    );
}

#[test]
fn requests_of_many_clients_are_batched_and_answered_each_with_its_own() {
    let sandbox = trained();
    let expected = predicted(&sandbox, "");
    let server = Serving::start(&sandbox, "--checkpoint runs/tiny --batch-wait 20ms -q");
    let images: Vec<Vec<u8>> = (0..IMAGES).map(|index| image(&sandbox, index)).collect();
    let (clients, each) = (16, 20);
    thread::scope(|scope| {
        for client in 0..clients {
            let (server, images, expected) = (&server, &images, &expected);
            scope.spawn(move || {
                let mut stream = server.connect();
                for number in 0..each {
                    let index = (7 * client + number) % IMAGES;
                    let request = post("/predict", "image/png", &images[index]);
                    stream.get_mut().write_all(&request).unwrap();
                    let reply = Reply::read(&mut stream).unwrap();
                    assert_eq!(reply.status, 200, "{reply:?}");
                    assert_same(&reply.json()["predictions"][0]["classes"], &expected[index]);
                }
            });
        }
    });
    let metrics = server.get("/metrics");
    let text = String::from_utf8(metrics.body.clone()).unwrap();
    let value = |name: &str| -> f64 {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("{name}: {text}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    let total = f64::from(clients as u32 * each as u32);
    assert!(
        (value("perceiver_batch_images_sum") - total).abs() < 0.5,
        "{text}"
    );
    assert!(
        value("perceiver_batch_images_count") < total,
        "some batch has several images: {text}"
    );
    let answered = value(r#"perceiver_requests_total{route="/predict",status="200"}"#);
    assert!((answered - total).abs() < 0.5);
    assert!(
        metrics
            .header("content-type")
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
}

#[test]
fn sigterm_under_load_loses_no_request() {
    let sandbox = trained();
    let server = Serving::start(&sandbox, "--checkpoint runs/tiny -q");
    let bytes = image(&sandbox, 0);
    let (answered, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let terminated = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let request = post("/predict", "image/png", &bytes);
                loop {
                    // New connections, too, until there are no more.
                    let Ok(stream) = TcpStream::connect(server.address) else {
                        refused.fetch_add(1, Ordering::Relaxed);
                        return;
                    };
                    let mut stream = std::io::BufReader::new(stream);
                    for _ in 0..10 {
                        stream.get_mut().write_all(&request).unwrap();
                        let reply = Reply::read(&mut stream).expect("a request without an answer");
                        assert_eq!(reply.status, 200, "{reply:?}");
                        answered.fetch_add(1, Ordering::Relaxed);
                        if reply.header("connection") == Some("close") {
                            assert!(terminated.load(Ordering::Relaxed));
                            break;
                        }
                    }
                }
            });
        }
        while answered.load(Ordering::Relaxed) < 200 {
            thread::yield_now();
        }
        terminated.store(true, Ordering::Relaxed);
        server.terminate();
    });
    assert_eq!(refused.load(Ordering::Relaxed), 16);
    assert_eq!(server.ended(), Some(0));
}

#[test]
fn an_idle_server_stops_at_once_and_idle_connections_are_closed() {
    let sandbox = trained();
    let server = Serving::start(&sandbox, "--checkpoint runs/tiny");
    let mut idle = server.connect();
    let mut used = server.connect();
    used.get_mut()
        .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    assert_eq!(Reply::read(&mut used).unwrap().status, 200);
    server.terminate();
    assert!(Reply::read(&mut idle).is_none());
    assert!(Reply::read(&mut used).is_none());
    let log = server.log();
    assert_eq!(server.ended(), Some(0), "{log}");
}

#[test]
fn a_full_queue_is_429_with_retry_after() {
    let sandbox = trained();
    let server = Serving::start(&sandbox, "--checkpoint runs/tiny --queue 2");
    let bytes = image(&sandbox, 1);
    let files: [(&str, &[u8]); 3] = [("a", &bytes), ("b", &bytes), ("c", &bytes)];
    let full = server.send(&post("/predict", FORM, &form(&files)));
    assert_eq!((full.status, full.code().as_str()), (429, "queue_full"));
    assert_eq!(full.header("retry-after"), Some("1"));
    let two = server.send(&post("/predict", FORM, &form(&files[..2])));
    assert_eq!(two.status, 200, "its places are free again");
}

#[test]
fn the_token_protects_everything_but_health_and_the_page() {
    let sandbox = trained();
    sandbox.write("token.txt", "open-sesame\n");
    let server = Serving::start(&sandbox, "--checkpoint runs/tiny --token-file token.txt");
    for open in ["/health", "/", "/page.css", "/page.js", "/openapi.json"] {
        assert_eq!(server.get(open).status, 200, "{open}");
    }
    let ask = |target: &str, header: &str| {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\n{header}Connection: close\r\n\r\n"
        );
        server.send(request.as_bytes())
    };
    for closed in ["/model", "/metrics"] {
        let refused = ask(closed, "");
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (401, "unauthorized"),
            "{closed}"
        );
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
        assert_eq!(
            ask(closed, "Authorization: Bearer open-sesam\r\n").status,
            401
        );
        assert_eq!(
            ask(closed, "Authorization: Bearer open-sesame\r\n").status,
            200
        );
    }
    assert_eq!(server.predict("/predict", &image(&sandbox, 0)).status, 401);
    assert!(!server.log().contains("sesam"), "{}", server.log());
}

#[test]
fn other_origins_need_permission() {
    let sandbox = trained();
    let preflight = b"OPTIONS /predict HTTP/1.1\r\nHost: localhost\r\nOrigin: https://a.test\r\n\
        Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n\
        Connection: close\r\n\r\n";
    let closed = Serving::start(&sandbox, "--checkpoint runs/tiny");
    let reply = closed.send(preflight);
    assert_eq!(
        (reply.status, reply.header("access-control-allow-origin")),
        (405, None)
    );
    let open = Serving::start(
        &sandbox,
        "--checkpoint runs/tiny --token t --allow-origin https://a.test",
    );
    let reply = open.send(preflight);
    assert_eq!(
        (reply.status, reply.header("access-control-allow-origin")),
        (200, Some("https://a.test"))
    );
    let other = String::from_utf8(preflight.to_vec())
        .unwrap()
        .replace("a.test", "b.test");
    assert_eq!(
        open.send(other.as_bytes())
            .header("access-control-allow-origin"),
        None
    );
}

#[test]
fn every_answer_has_a_request_id_that_the_log_has_too() {
    let sandbox = trained();
    let server = Serving::start(&sandbox, "--checkpoint runs/tiny --log-format json");
    let request = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: order-7\r\nConnection: close\r\n\r\n";
    let reply = server.send(request);
    assert_eq!(
        (reply.status, reply.header("x-request-id")),
        (404, Some("order-7"))
    );
    assert_eq!(reply.code(), "not_found");
    let id = server
        .get("/health")
        .header("x-request-id")
        .unwrap()
        .to_owned();
    assert_eq!(id.len(), 32);
    let lines: Vec<Value> = server
        .log()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |id: &str| {
        lines
            .iter()
            .find(|line| line["span"]["request"] == id)
            .unwrap()
    };
    assert_eq!(
        (&of("order-7")["path"], &of("order-7")["status"]),
        (&json!("/nothing"), &json!(404))
    );
    assert_eq!(of(&id)["message"], "answered");
}

#[test]
fn the_model_is_described() {
    let sandbox = trained();
    let server = Serving::start(&sandbox, "--checkpoint runs/tiny");
    let model = server.get("/model").json();
    assert_eq!(
        (&model["name"], &model["kind"]),
        (&json!("tiny"), &json!("Perceiver"))
    );
    assert_eq!(
        (&model["image_size"], &model["fit"]["kind"]),
        (&json!(16), &json!("stretch"))
    );
    assert_eq!(model["classes"].as_array().unwrap().len(), 20);
    assert_eq!(
        (&model["training"]["dataset"], &model["results"]["images"]),
        (&json!("shapes"), &json!(20))
    );
    let described = server.get("/openapi.json").json();
    let required = &described["components"]["schemas"]["Model"]["required"];
    for field in required.as_array().unwrap() {
        assert!(!model[field.as_str().unwrap()].is_null(), "{field}");
    }
}

#[test]
fn the_server_says_where_it_listens_and_wrong_flags_are_usage_errors() {
    let sandbox = trained();
    let server = Serving::start(&sandbox, "--checkpoint runs/tiny");
    assert!(
        server.log().contains("only this machine can reach it"),
        "{}",
        server.log()
    );
    for (flags, finding) in [
        ("--max-body 0", "--max-body"),
        (
            "--max-buffered 1MiB",
            "--max-buffered: expected 20971520 to",
        ),
        (
            "--max-images 1000",
            "--max-images: expected 1 to 256, found 1000",
        ),
        ("--timeout 0s", "--timeout: expected a duration above 0"),
        ("--token-file no.txt --token x", "cannot be used with"),
        ("--address nowhere", "--address"),
        ("--batch-wait soon", "milliseconds"),
    ] {
        let output = sandbox.run(&format!("serve --checkpoint runs/tiny {flags}"));
        assert_eq!(output.code, Some(2), "{flags}: {}", output.err);
        assert!(output.err.contains(finding), "{flags}: {}", output.err);
    }
    let taken = sandbox.run(&format!(
        "serve --checkpoint runs/tiny --address {}",
        server.address
    ));
    assert_eq!(taken.code, Some(1));
    assert!(taken.err.contains("choose another port"), "{}", taken.err);
    let missing = sandbox.run("serve --checkpoint runs/nothing");
    assert_eq!(missing.code, Some(2), "{}", missing.err);
}
