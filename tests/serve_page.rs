//! The page of `perceiver serve` in a real browser, if one is installed: drops an image on it, and
//! compares what it shows with `perceiver predict`.
//!
//! The browser sees the server through a small proxy that adds a script to the page, which operates
//! it and records what it sees. The script is a file of the same origin, as the page's policy demands.
#![cfg(unix)]

use std::fs;
use std::io::{BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use perceiver_data::{LoadOptions, Source, Split};
use perceiver_tests::browser::{Browser, console};
use perceiver_tests::http::Request;
use perceiver_tests::program::Sandbox;
use perceiver_tests::serving::{Reply, Serving};
use serde_json::Value;

/// Drops an image, waits for the answer, moves the slider, and records what the page then shows.
const SCRIPT: &str = r##"
(async () => {
  const until = async (is) => { while (!is()) await new Promise((resolve) => setTimeout(resolve, 20)); };
  const png = await (await fetch("test.png")).blob();
  const transfer = new DataTransfer();
  transfer.items.add(new File([png], "cat.png", { type: "image/png" }));
  await until(() => at("facts").children.length > 0);
  window.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, cancelable: true }));
  await until(() => document.querySelector("[data-probability]") && !at("look").hidden);
  const slider = at("iteration");
  const shown = [];
  for (const value of [0, 1]) {
    slider.value = value;
    slider.dispatchEvent(new Event("input"));
    shown.push([at("which").textContent, at("overlay").hidden]);
  }
  const bars = [...document.querySelectorAll("#bars li")].map((item) => [
    item.querySelector(".class").textContent, Number(item.querySelector("[data-probability]").dataset.probability),
  ]);
  const over = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const seen = { bars, shown, over, name: at("name").textContent };
  document.documentElement.dataset.seen = encodeURIComponent(JSON.stringify(seen));
})();
"##;

/// Starts the proxy, which adds `/test.js` and `/test.png`.
fn proxy(server: SocketAddr, png: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let png = Arc::new(png);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let png = Arc::clone(&png);
            thread::spawn(move || pass_on(&stream, server, &png));
        }
    });
    address
}

/// Answers a request, and closes the connection.
fn pass_on(mut stream: &TcpStream, server: SocketAddr, png: &[u8]) {
    let Some(request) = Request::read(stream) else {
        return;
    };
    let (policy, media_type, body) = match request.path.as_str() {
        "/test.js" => (
            String::new(),
            "text/javascript".to_owned(),
            SCRIPT.as_bytes().to_vec(),
        ),
        "/test.png" => (String::new(), "image/png".to_owned(), png.to_vec()),
        _ => {
            let reply = forwarded(&request, server);
            let header = |name| reply.header(name).unwrap_or_default().to_owned();
            let mut body = reply.body.clone();
            if request.path == "/" {
                let page = String::from_utf8(body).unwrap();
                let script = "<script src=\"test.js\" defer></script></head>";
                body = page.replace("</head>", script).into_bytes();
            }
            (
                header("content-security-policy"),
                header("content-type"),
                body,
            )
        }
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Security-Policy: {policy}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(&[head.as_bytes(), &body].concat());
}

fn forwarded(request: &Request, server: SocketAddr) -> Reply {
    let mut stream = TcpStream::connect(server).unwrap();
    let head = format!(
        "{} {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        request.method,
        request.target,
        request.body.len()
    );
    stream
        .write_all(&[head.as_bytes(), &request.body].concat())
        .unwrap();
    Reply::read(&mut BufReader::new(stream)).unwrap()
}

#[test]
fn an_image_that_is_dropped_gets_the_prediction_of_the_command() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    sandbox.succeed("train --preset quickstart --config tiny.toml --output runs/tiny");
    let shapes = Source::Shapes
        .load(Split::Test, &LoadOptions::default())
        .unwrap();
    shapes.images()[3]
        .write_png(sandbox.path("cat.png"))
        .unwrap();
    let expected = sandbox
        .succeed("predict --checkpoint runs/tiny --json cat.png")
        .out;
    let expected: Value = serde_json::from_str(&expected).unwrap();
    let server = Serving::start(&sandbox, "--checkpoint runs/tiny");
    let proxy = proxy(server.address, fs::read(sandbox.path("cat.png")).unwrap());

    for width in [1280, 390] {
        let opened = browser.open_served(&format!("http://{proxy}/"), width, 60_000);
        assert_eq!(console(&opened.log), Vec::<&str>::new());
        assert_eq!(opened.asked, Vec::<String>::new());
        let seen = opened
            .dom
            .split("data-seen=\"")
            .nth(1)
            .unwrap_or_else(|| panic!("{}", opened.dom));
        let seen = percent_decoded(seen.split('"').next().unwrap());
        let seen: Value = serde_json::from_str(&seen).unwrap();
        assert_eq!((&seen["name"], &seen["over"]), (&"tiny".into(), &0.into()));
        let bars = seen["bars"].as_array().unwrap();
        let classes = expected["classes"].as_array().unwrap();
        assert_eq!(bars.len(), classes.len());
        for (bar, class) in bars.iter().zip(classes) {
            assert_eq!(bar[0], class["class"]);
            let difference = bar[1].as_f64().unwrap() - class["probability"].as_f64().unwrap();
            assert!(difference.abs() < 1e-6, "{bar}, {class}");
        }
        let iterations = seen["shown"][1][0].as_str().unwrap();
        assert!(
            iterations.starts_with("cross-attention 1 of "),
            "{iterations}"
        );
        assert_eq!(
            (&seen["shown"][0][1], &seen["shown"][1][1]),
            (&true.into(), &false.into())
        );
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().unwrap(), rest.next().unwrap()];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}
