//! Hostile HTTP: lengths, heads, and connections that are slow or broken.

use std::time::Duration;

use perceiver_tests::serving::post;

use crate::images::good_png;
use crate::kinds::{Kinds, Manner, Outcome};

pub(crate) fn lengths(kinds: &mut Kinds) {
    let with = |headers: &str, body: &str| -> Vec<u8> {
        format!("POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n{headers}\r\n{body}").into()
    };
    kinds.add(
        "a Content-Length of 10 GB",
        with("Content-Length: 10000000000\r\n", "x"),
        Outcome::Status(413),
    );
    kinds.add(
        "a Content-Length of 1 MiB and 1 byte",
        with("Content-Length: 1048577\r\n", "x"),
        Outcome::Status(413),
    );
    for (name, header) in [
        ("negative", "Content-Length: -5"),
        ("with a plus", "Content-Length: +5"),
        ("hexadecimal", "Content-Length: 0x5"),
        ("with a point", "Content-Length: 5.0"),
        (
            "of 100 digits",
            "Content-Length: 9999999999999999999999999999999999999999999999999999999999999999999999999999999",
        ),
        ("of words", "Content-Length: five"),
        ("that is empty", "Content-Length: "),
        (
            "given twice, differently",
            "Content-Length: 5\r\nContent-Length: 6",
        ),
        (
            "and chunks",
            "Content-Length: 5\r\nTransfer-Encoding: gzip, chunked, identity",
        ),
    ] {
        kinds.add(
            format!("a Content-Length {name}"),
            with(&format!("{header}\r\n"), "hello"),
            Outcome::RefusedOrClosed,
        );
    }
    let chunked = |body: &str| with("Transfer-Encoding: chunked\r\n", body);
    kinds.add(
        "a chunk of a wrong size",
        chunked("zz\r\nhello\r\n0\r\n\r\n"),
        Outcome::RefusedOrClosed,
    );
    kinds.add(
        "a chunk of a huge size",
        chunked("ffffffffffffffff\r\nhello"),
        Outcome::RefusedOrClosed,
    );
    kinds.add(
        "a chunk of a size beyond 64 bits",
        chunked("fffffffffffffffff1\r\nhello"),
        Outcome::RefusedOrClosed,
    );
    kinds.add(
        "a chunk longer than it says",
        chunked("2\r\nhello\r\n0\r\n\r\n"),
        Outcome::RefusedOrClosed,
    );
    let extension = format!("5;x={}\r\nhello\r\n0\r\n\r\n", "y".repeat(100_000));
    kinds.add(
        "a chunk with an extension of 100 kB",
        chunked(&extension),
        Outcome::RefusedOrClosed,
    );
    let trailers = format!("1\r\nx\r\n0\r\n{}\r\n", "X: y\r\n".repeat(20_000));
    kinds.add(
        "20,000 trailers",
        chunked(&trailers),
        Outcome::RefusedOrClosed,
    );
    let long = format!(
        "{}0\r\n\r\n",
        format!("8000\r\n{}\r\n", "x".repeat(0x8000)).repeat(40)
    );
    kinds.add(
        "chunks of more than the largest body",
        chunked(&long),
        Outcome::Status(413),
    );
    let tiny = format!("{}0\r\n\r\n", "1\r\nx\r\n".repeat(20_000));
    kinds.add("20,000 chunks of a byte", chunked(&tiny), Outcome::Refused);
    kinds.add(
        "an unknown transfer encoding",
        with("Transfer-Encoding: gzip\r\n", "hello"),
        Outcome::RefusedOrClosed,
    );
    kinds.add(
        "an unknown expectation",
        with("Expect: a miracle\r\nContent-Length: 5\r\n", "hello"),
        Outcome::Refused,
    );
}

pub(crate) fn heads(kinds: &mut Kinds) {
    let get = |target: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    };
    for target in [
        "/predict/../model/x",
        "/../../../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//model//",
        "/model/",
        "/page.css/..",
        "/page.js%00",
        "/%",
        "/%zz",
        "/%ff%fe",
        "/.git/config",
        "/.env",
        "/admin",
        "/metrics.txt",
        "/openapi.json/",
        "/index.html",
        "/C:/windows/win.ini",
        "/health;x=y",
        "/model%20",
        "/~root",
        "/*",
        "/cgi-bin/sh",
    ] {
        kinds.add(
            format!("the path {target}"),
            get(target),
            Outcome::Status(404),
        );
    }
    kinds.add("the path *", get("*"), Outcome::RefusedOrClosed);
    kinds.add(
        "a path without a slash",
        get("model/x"),
        Outcome::RefusedOrClosed,
    );
    kinds.add(
        "a path with a backslash",
        get("/..\\..\\x"),
        Outcome::RefusedOrClosed,
    );
    kinds.add(
        "a path of another server",
        get("http://evil.test/x"),
        Outcome::Refused,
    );
    kinds.add(
        "a path of 40 kB",
        get(&format!("/{}", "x".repeat(40_000))),
        Outcome::RefusedOrClosed,
    );
    kinds.add(
        "a path of 100 kB",
        get(&format!("/{}", "x".repeat(100_000))),
        Outcome::RefusedOrClosed,
    );
    kinds.add(
        "a path that is not UTF-8",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        Outcome::RefusedOrClosed,
    );
    for (method, target) in [
        ("GET", "/predict"),
        ("PUT", "/predict"),
        ("DELETE", "/predict"),
        ("PATCH", "/predict"),
        ("OPTIONS", "/predict"),
        ("TRACE", "/predict"),
        ("POST", "/model"),
        ("DELETE", "/model"),
        ("POST", "/health"),
        ("PUT", "/"),
        ("BREW", "/predict"),
        ("get", "/model"),
        ("POST", "/openapi.json"),
    ] {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        kinds.add(format!("{method} {target}"), request, Outcome::Status(405));
    }
    kinds.add(
        "a tunnel",
        "CONNECT evil.test:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        Outcome::RefusedOrClosed,
    );
    let good = good_png();
    for query in [
        "top_k=0",
        "top_k=-1",
        "top_k=x",
        "top_k=1.5",
        "top_k=99999999999999999999999",
        "top_k=",
        "attention=2",
        "attention=",
        "attention=TRUE",
        "top_k=1&top_k=2",
        "unknown=1",
        "attention=true;top_k=1",
        "%zz=1",
        "top_k=%00",
        "=",
        "a=b=c",
    ] {
        let request = post(&format!("/predict?{query}"), "image/png", &good);
        kinds.add(format!("the query {query}"), request, Outcome::Status(400));
    }
    for host in [
        "evil.test",
        "evil.test:80",
        "localhost.evil.test",
        "169.254.169.254",
        "0",
        "[::2]",
        "a b",
        "localhost@evil.test",
    ] {
        let request = format!("GET /model HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        kinds.add(format!("the host {host}"), request, Outcome::Status(421));
    }
    let with = |headers: &str| {
        format!("GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n")
    };
    kinds.add(
        "a header of 100 kB",
        with(&format!("X: {}\r\n", "y".repeat(100_000))),
        Outcome::RefusedOrClosed,
    );
    kinds.add(
        "1,000 headers",
        with(&"X: y\r\n".repeat(1000)),
        Outcome::RefusedOrClosed,
    );
    kinds.add(
        "a header without a colon",
        with("nonsense\r\n"),
        Outcome::RefusedOrClosed,
    );
    kinds.add(
        "a header with a space before its colon",
        with("X : y\r\n"),
        Outcome::RefusedOrClosed,
    );
    kinds.add(
        "a folded header",
        with("X: y\r\n z\r\n"),
        Outcome::RefusedOrClosed,
    );
    kinds.add(
        "a header with a NUL",
        with("X: \0\r\n"),
        Outcome::RefusedOrClosed,
    );
    kinds.add(
        "a header with a bare carriage return",
        with("X: a\rY: b\r\n"),
        Outcome::RefusedOrClosed,
    );
    kinds.add(
        "a header without a name",
        with(": y\r\n"),
        Outcome::RefusedOrClosed,
    );
    let endless = vec![b'G'; 100_000];
    for (name, request) in [
        ("no HTTP", &b"hello\r\n\r\n"[..]),
        ("HTTP/0.9", b"GET /\r\n\r\n"),
        ("HTTP/9.9", b"GET / HTTP/9.9\r\n\r\n"),
        ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (
            "a TLS hello",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ),
        ("an SSH banner", b"SSH-2.0-OpenSSH_9.6\r\n"),
        ("a Redis command", b"*1\r\n$8\r\nFLUSHALL\r\n"),
        ("zeros", &[0; 1000]),
        ("ones", &[0xff; 1000]),
        ("empty lines", &[b'\n'; 1000]),
        ("a request line of spaces", b"          \r\n\r\n"),
        ("a request line without an end", &endless),
    ] {
        kinds.add(
            format!("{name} instead of a request"),
            request,
            Outcome::RefusedOrClosed,
        );
    }
}

pub(crate) fn slow_and_broken(kinds: &mut Kinds) {
    let head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n";
    let pause = Duration::from_millis(40);
    kinds.add("silence", Vec::new(), Outcome::Closed);
    kinds.add(
        "a head without an end",
        "GET / HTTP/1.1\r\nHost: localhost\r\nX: ",
        Outcome::RefusedOrClosed,
    );
    kinds.add("a body that never comes", *head, Outcome::Status(408));
    kinds.add(
        "a body of which a part comes",
        [&head[..], b"hello"].concat(),
        Outcome::Status(408),
    );
    let slow_head = [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 100]].concat();
    kinds.in_manner(
        "a head byte by byte",
        Manner::Trickle(Vec::new(), slow_head, pause),
        Outcome::RefusedOrClosed,
    );
    let slow_body = Manner::Trickle(head.to_vec(), vec![b'x'; 100], pause);
    kinds.in_manner("a body byte by byte", slow_body, Outcome::Status(408));
    let chunks =
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let slow_chunks = Manner::Trickle(chunks, b"1\r\nx\r\n".repeat(20), pause);
    kinds.in_manner("chunks byte by byte", slow_chunks, Outcome::Status(408));
    kinds.in_manner(
        "nothing, half closed",
        Manner::HalfClosed(Vec::new()),
        Outcome::Closed,
    );
    kinds.in_manner(
        "half a head, half closed",
        Manner::HalfClosed(b"GET / HT".to_vec()),
        Outcome::RefusedOrClosed,
    );
    kinds.in_manner(
        "half a body, half closed",
        Manner::HalfClosed(head.to_vec()),
        Outcome::RefusedOrClosed,
    );
    let good = post("/predict?attention=true", "image/png", &good_png());
    kinds.in_manner(
        "a request whose client is gone",
        Manner::Unread(good.clone()),
        Outcome::Answered,
    );
    let large = [
        &post("/predict", "image/png", b"")[..],
        &vec![b'x'; 2 << 20][..],
    ]
    .concat();
    kinds.add(
        "2 MB behind a request without a body",
        large,
        Outcome::Answered,
    );
    let unread = b"GET /page.css HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2000);
    kinds.in_manner(
        "2,000 requests whose answers are not read",
        Manner::Unread(unread),
        Outcome::Answered,
    );
    let pipelined = [
        &b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(50)[..],
        b"\0\0\0\r\n\r\n",
    ]
    .concat();
    kinds.add(
        "50 requests at once with garbage behind them",
        pipelined,
        Outcome::Status(404),
    );
}
