//! Hostile requests to `perceiver serve`: none crashes it, hangs it or makes it use more memory than
//! its bound, and each is answered with a 4xx or closed at a timeout.
//!
//! The server has short timeouts and small limits by its flags, so that each is reached.
#![cfg(unix)]

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use perceiver_data::Image;
use perceiver_tests::program::Sandbox;
use perceiver_tests::serving::{FORM, Reply, Serving, form, post};

/// The limits of the server under attack.
const FLAGS: &str = "--checkpoint runs/tiny -q --header-timeout 3s --body-timeout 3s --timeout 20s --write-timeout 1s \
    --max-body 1MiB --max-buffered 4MiB --max-pixels 1000000 --max-images 8 --connections 64 --queue 16";

/// What may follow a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// A 4xx.
    Refused,
    /// This status.
    Status(u16),
    /// A 4xx, or the end of the connection.
    RefusedOrClosed,
    /// The end of the connection.
    Closed,
    /// Any answer but a failure of the server: the input is odd, but may be answered.
    Answered,
}

/// How a request is sent.
enum Manner {
    /// At once.
    AtOnce(Vec<u8>),
    /// The first part, and then the second byte by byte, with a pause between.
    Trickle(Vec<u8>, Vec<u8>, Duration),
    /// At once, and then the sending half is closed.
    HalfClosed(Vec<u8>),
    /// At once, without reading the answer.
    Unread(Vec<u8>),
}

/// A kind of hostile request.
struct Kind {
    name: String,
    manner: Manner,
    outcome: Outcome,
}

#[derive(Default)]
struct Kinds(Vec<Kind>);

impl Kinds {
    fn add(&mut self, name: impl Into<String>, request: impl Into<Vec<u8>>, outcome: Outcome) {
        self.in_manner(name, Manner::AtOnce(request.into()), outcome);
    }

    fn in_manner(&mut self, name: impl Into<String>, manner: Manner, outcome: Outcome) {
        self.0.push(Kind {
            name: name.into(),
            manner,
            outcome,
        });
    }
}

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    sandbox.succeed("train --preset quickstart --config tiny.toml --output runs/tiny");
    sandbox
}

/// The seed images of the fuzz targets.
fn seed(name: &str) -> Vec<u8> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/image");
    fs::read(seeds.join(name)).unwrap()
}

const SEEDS: [&str; 8] = [
    "ok-rgb.png",
    "ok-rgb.jpg",
    "ok-progressive.jpg",
    "ok-rgb.webp",
    "ok-alpha.gif",
    "ok-rgb.bmp",
    "ok-rgb.tiff",
    "ok-palette.png",
];

fn raw(body: &[u8]) -> Vec<u8> {
    post("/predict", "application/octet-stream", body)
}

fn good_png() -> Vec<u8> {
    Image::new(8, 8, vec![90; 192]).unwrap().to_png().unwrap()
}

/// Returns a chunk of a PNG file.
fn chunk(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut checked = kind.to_vec();
    checked.extend_from_slice(data);
    let mut crc = flate2::Crc::new();
    crc.update(&checked);
    let mut chunk = (data.len() as u32).to_be_bytes().to_vec();
    chunk.extend_from_slice(&checked);
    chunk.extend_from_slice(&crc.sum().to_be_bytes());
    chunk
}

/// Returns a PNG file with this size in its header, these chunks and these compressed pixels.
fn png(width: u32, height: u32, extra: &[u8], pixels: &[u8]) -> Vec<u8> {
    let mut header = width.to_be_bytes().to_vec();
    header.extend_from_slice(&height.to_be_bytes());
    header.extend_from_slice(&[8, 2, 0, 0, 0]);
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    file.extend(chunk(*b"IHDR", &header));
    file.extend_from_slice(extra);
    file.extend(chunk(*b"IDAT", pixels));
    file.extend(chunk(*b"IEND", &[]));
    file
}

/// Returns this many zeros, compressed.
fn zeros(bytes: usize) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    let block = vec![0; 1 << 16];
    let mut left = bytes;
    while left > 0 {
        let part = left.min(block.len());
        encoder.write_all(&block[..part]).unwrap();
        left -= part;
    }
    encoder.finish().unwrap()
}

fn truncated_images(kinds: &mut Kinds) {
    for name in SEEDS {
        let whole = seed(name);
        for (part, end) in [
            ("nothing", 0),
            ("1 byte", 1),
            ("4 bytes", 4),
            ("12 bytes", 12),
            ("a quarter", whole.len() / 4),
            ("half", whole.len() / 2),
        ] {
            kinds.add(
                format!("{name}, of which {part} is sent"),
                raw(&whole[..end]),
                Outcome::Status(422),
            );
        }
    }
}

fn damaged_images(kinds: &mut Kinds) {
    for name in SEEDS {
        let mut garbage = seed(name)[..16].to_vec();
        garbage.extend((0..5000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8));
        kinds.add(
            format!("{name}, garbage after its first bytes"),
            raw(&garbage),
            Outcome::Refused,
        );
        let mut middle = seed(name);
        let (from, to) = (middle.len() / 4, middle.len() / 2);
        middle[from..to].fill(0xa5);
        kinds.add(
            format!("{name}, overwritten in its middle"),
            raw(&middle),
            Outcome::Answered,
        );
    }
    for name in [
        "bad-claims-sixty-megapixels.jpg",
        "bad-palette-of-28-bytes.png",
    ] {
        kinds.add(name, raw(&seed(name)), Outcome::Refused);
    }
    for (name, body) in [
        ("a page", &b"<!doctype html><img src=x>"[..]),
        (
            "a vector image",
            b"<svg xmlns='http://www.w3.org/2000/svg' width='1e9' height='1e9'/>",
        ),
        ("an archive", b"PK\x03\x04\x14\x00\x00\x00\x08\x00"),
        ("a program", b"\x7fELF\x02\x01\x01\x00"),
        ("a script", b"#!/bin/sh\nrm -rf /\n"),
        (
            "an AVIF header",
            b"\x00\x00\x00\x20ftypavif\x00\x00\x00\x00",
        ),
        ("an EXR header", b"\x76\x2f\x31\x01\x02\x00\x00\x00"),
        ("a PDF", b"%PDF-1.7\n"),
        ("zeros", &[0; 4096]),
        ("ones", &[0xff; 4096]),
    ] {
        kinds.add(
            format!("{name} instead of an image"),
            raw(body),
            Outcome::Status(422),
        );
    }
}

fn bombs(kinds: &mut Kinds) {
    for (width, height) in [
        (60_000, 60_000),
        (1 << 31, 1 << 31),
        (u32::MAX, u32::MAX),
        (1_000_001, 1),
        (1, 1_000_001),
    ] {
        let file = png(width, height, &[], &zeros(1000));
        kinds.add(
            format!("a PNG that claims {width} x {height} pixels"),
            raw(&file),
            Outcome::Refused,
        );
    }
    for (width, height) in [(0, 0), (0, 5), (5, 0)] {
        kinds.add(
            format!("a PNG of {width} x {height} pixels"),
            raw(&png(width, height, &[], &zeros(9))),
            Outcome::Refused,
        );
    }
    // 1.2 GB of pixels in little more than 1 MB, and 300 MB in 300 kB.
    let bomb = png(10_000, 10_000, &[], &zeros(10_000 * 30_001));
    kinds.add(
        "a PNG of 300 MB of black pixels",
        raw(&bomb),
        Outcome::Status(413),
    );
    let bomb = png(999, 999, &[], &zeros(500 << 20));
    kinds.add(
        "a PNG with 500 MB of pixels more than its header says",
        raw(&bomb),
        Outcome::Answered,
    );
    let few = zeros(8 * 25);
    for (name, kind, head) in [
        ("color profile", b"iCCP", &b"x\0\0"[..]),
        ("text", b"zTXt", b"x\0\0"),
        ("international text", b"iTXt", b"x\0\x01\0\0\0"),
    ] {
        let mut data = head.to_vec();
        data.extend(zeros(200 << 20));
        let file = png(8, 8, &chunk(*kind, &data), &few);
        kinds.add(
            format!("a PNG with a {name} of 200 MB, compressed"),
            raw(&file),
            Outcome::Answered,
        );
    }
    let mut gif = b"GIF89a".to_vec();
    gif.extend_from_slice(&[0xff; 4]);
    gif.extend_from_slice(&[
        0, 0, 0, 0x2c, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 2, 2, 0x44, 1, 0, 0x3b,
    ]);
    kinds.add(
        "a GIF that claims 65,535 x 65,535 pixels",
        raw(&gif),
        Outcome::Refused,
    );
    let mut bmp = seed("ok-rgb.bmp");
    bmp[18..22].copy_from_slice(&60_000_i32.to_le_bytes());
    bmp[22..26].copy_from_slice(&60_000_i32.to_le_bytes());
    kinds.add(
        "a BMP that claims 60,000 x 60,000 pixels",
        raw(&bmp),
        Outcome::Refused,
    );
    bmp[22..26].copy_from_slice(&i32::MIN.to_le_bytes());
    kinds.add("a BMP of negative height", raw(&bmp), Outcome::Refused);
    bmp[18..22].copy_from_slice(&i32::MIN.to_le_bytes());
    kinds.add("a BMP of negative width", raw(&bmp), Outcome::Refused);
    let tiff = b"II*\0\x08\0\0\0\x04\0\0\x01\x04\0\x01\0\0\0\xff\xff\xff\x7f\x01\x01\x04\0\x01\0\0\0\xff\xff\xff\x7f";
    kinds.add(
        "a TIFF that claims 2 billion x 2 billion pixels",
        raw(tiff),
        Outcome::Refused,
    );
    let cyclic = b"II*\0\x08\0\0\0\0\0\x08\0\0\0";
    kinds.add(
        "a TIFF whose directory is its own next one",
        raw(cyclic),
        Outcome::Refused,
    );
    let mut webp = b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f".to_vec();
    webp.extend_from_slice(&[0xff; 12]);
    kinds.add(
        "a WebP that claims 16,384 x 16,384 pixels",
        raw(&webp),
        Outcome::Refused,
    );
    let bombs: Vec<(&str, &[u8])> = vec![("a", &bomb); 3];
    kinds.add(
        "a form of three bombs",
        post("/predict", FORM, &form(&bombs)),
        Outcome::Answered,
    );
}

fn content_types(kinds: &mut Kinds) {
    let good = good_png();
    for content_type in [
        "text/plain",
        "text/html",
        "application/x-www-form-urlencoded",
        "application/xml",
        "application/zip",
        "application/javascript",
        "video/mp4",
        "audio/mpeg",
        "multipart/mixed; boundary=B",
        "multipart/related; boundary=B",
        "application/x-tar",
        "application/json-patch+json",
        "image",
        "image/",
        "/png",
        "png",
        ";",
        "",
        "application/json;;;",
        "*/*",
        "application/octet-stream, application/json",
    ] {
        let request = post("/predict", content_type, &good);
        // A list of types, and parameters that say nothing, are read as the first.
        let outcome = if content_type.contains([',', ';']) || content_type == "image/" {
            Outcome::Answered
        } else {
            Outcome::Refused
        };
        kinds.add(format!("Content-Type {content_type:?}"), request, outcome);
    }
    let long = format!("image/{}", "x".repeat(20_000));
    kinds.add(
        "a Content-Type of 20 kB",
        post("/predict", &long, b"no image"),
        Outcome::Refused,
    );
    let with = |header: &str| {
        let head = format!(
            "POST /predict HTTP/1.1\r\nHost: localhost\r\n{header}\r\nContent-Length: 5\r\n\r\nhello"
        );
        head.into_bytes()
    };
    for encoding in [
        "gzip",
        "br",
        "deflate",
        "zstd",
        "gzip, gzip, gzip",
        "identity, gzip",
        "x",
    ] {
        let header = format!("Content-Encoding: {encoding}");
        kinds.add(
            format!("Content-Encoding {encoding:?}"),
            with(&header),
            Outcome::Status(415),
        );
    }
    kinds.add(
        "two content types",
        with("Content-Type: text/html\r\nContent-Type: image/png"),
        Outcome::Refused,
    );
    kinds.add(
        "a Content-Type that is not UTF-8",
        {
            let mut request =
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n".to_vec();
            request.extend_from_slice(b"Content-Type: \xff\xfe\r\n\r\n");
            request.push(b'x');
            request
        },
        Outcome::Refused,
    );
}

fn forms(kinds: &mut Kinds) {
    let good = good_png();
    let whole = form(&[("a.png", &good)]);
    let text = |text: &str| text.as_bytes().to_vec();
    let long = "x".repeat(100_000);
    for (name, content_type, body) in [
        ("without a boundary", "multipart/form-data", whole.clone()),
        (
            "with an empty boundary",
            "multipart/form-data; boundary=",
            whole.clone(),
        ),
        (
            "with another boundary",
            "multipart/form-data; boundary=C",
            whole.clone(),
        ),
        ("without an end", FORM, whole[..whole.len() - 6].to_vec()),
        (
            "cut short within its image",
            FORM,
            whole[..whole.len() / 2].to_vec(),
        ),
        ("without parts", FORM, text("--B--\r\n")),
        ("without content", FORM, Vec::new()),
        ("that is only a boundary", FORM, text("--B")),
        (
            "with a part without headers",
            FORM,
            text("--B\r\n\r\nx\r\n--B--\r\n"),
        ),
        (
            "with a part without a name",
            FORM,
            text("--B\r\nContent-Type: image/png\r\n\r\nx\r\n--B--\r\n"),
        ),
        (
            "with a header without end",
            FORM,
            text(&format!("--B\r\nContent-Disposition: {long}")),
        ),
        (
            "with a header of 500 kB",
            FORM,
            text(&format!(
                "--B\r\nX: {}\r\n\r\nx\r\n--B--\r\n",
                "x".repeat(500_000)
            )),
        ),
        (
            "with 1,000 headers in a part",
            FORM,
            text(&format!(
                "--B\r\n{}\r\nx\r\n--B--\r\n",
                "X: y\r\n".repeat(1000)
            )),
        ),
        (
            "with bare newlines",
            FORM,
            text("--B\nContent-Disposition: form-data; name=\"a\"\n\nx\n--B--\n"),
        ),
        ("within a form", FORM, form(&[("a", &whole)])),
        ("with an empty image", FORM, form(&[("a.png", b"")])),
        (
            "with a path as name",
            FORM,
            form(&[("../../../../etc/passwd", b"x")]),
        ),
        ("with a name of 100 kB", FORM, form(&[(&long, b"x")])),
        (
            "with markup as name",
            FORM,
            form(&[("<script>alert(1)</script>", b"x")]),
        ),
        (
            "with control characters as name",
            FORM,
            form(&[("\u{1b}[2J\u{7}\u{202e}", b"x")]),
        ),
        (
            "with an unclosed quote",
            FORM,
            text("--B\r\nContent-Disposition: form-data; name=\"a\r\n\r\nx\r\n--B--\r\n"),
        ),
        (
            "with text instead of an image",
            FORM,
            form(&[("a.png", b"hello")]),
        ),
    ] {
        kinds.add(
            format!("a form {name}"),
            post("/predict", content_type, &body),
            Outcome::Refused,
        );
    }
    forms_of_many_bytes(kinds);
}

fn forms_of_many_bytes(kinds: &mut Kinds) {
    let good = good_png();
    let whole = form(&[("a.png", &good)]);
    let mut named =
        b"--B\r\nContent-Disposition: form-data; name=\"\xff\xfe\"; filename=\"\xc3\x28\"\r\n\r\n"
            .to_vec();
    named.extend_from_slice(b"x\r\n--B--\r\n");
    kinds.add(
        "a form with a name that is not UTF-8",
        post("/predict", FORM, &named),
        Outcome::Refused,
    );
    let many: Vec<(&str, &[u8])> = vec![("a", &good); 9];
    kinds.add(
        "a form of more images than allowed",
        post("/predict", FORM, &form(&many)),
        Outcome::Status(400),
    );
    let many: Vec<(&str, &[u8])> = vec![("a", b""); 5000];
    kinds.add(
        "a form of 5,000 empty parts",
        post("/predict", FORM, &form(&many)),
        Outcome::Status(400),
    );
    let long = format!("multipart/form-data; boundary={}", "x".repeat(10_000));
    kinds.add(
        "a boundary of 10 kB",
        post("/predict", &long, &whole),
        Outcome::Refused,
    );
    let dashes = "-".repeat(900_000);
    kinds.add(
        "a form of 900 kB of dashes",
        post("/predict", FORM, dashes.as_bytes()),
        Outcome::Refused,
    );
    let almost = "\r\n--".repeat(200_000);
    kinds.add(
        "a form of 200,000 almost boundaries",
        post("/predict", FORM, almost.as_bytes()),
        Outcome::Refused,
    );
    let odd = post("/predict", "multipart/form-data; boundary=\"B\r", &whole);
    kinds.add(
        "a boundary with a line break",
        odd,
        Outcome::RefusedOrClosed,
    );
}

fn json_bodies(kinds: &mut Kinds) {
    let good = STANDARD.encode(good_png());
    let mut bodies: Vec<(&str, Vec<u8>)> = Vec::new();
    let mut add = |name, text: String| bodies.push((name, text.into_bytes()));
    add("of nothing", String::new());
    add("null", "null".into());
    add("a number", "7".into());
    add("a text", format!("{good:?}"));
    add("a list", format!("[{good:?}]"));
    add("an empty object", "{}".into());
    add("an empty list of images", r#"{"images": []}"#.into());
    add(
        "both forms at once",
        format!(r#"{{"image": "{good}", "images": []}}"#),
    );
    add(
        "the same key twice",
        format!(r#"{{"image": "{good}", "image": "{good}"}}"#),
    );
    add(
        "an unknown key",
        format!(r#"{{"image": "{good}", "path": "/etc/passwd"}}"#),
    );
    add(
        "a path instead of an image",
        r#"{"image": "/etc/passwd"}"#.into(),
    );
    add(
        "an address instead of an image",
        r#"{"image": "http://169.254.169.254/latest"}"#.into(),
    );
    add(
        "a file: address",
        r#"{"image": "file:///etc/passwd"}"#.into(),
    );
    add(
        "a data: URL without data",
        r#"{"image": "data:image/png;base64"}"#.into(),
    );
    add("an image that is a number", r#"{"image": 7}"#.into());
    add("an image that is null", r#"{"image": null}"#.into());
    add("images in images", r#"{"images": [["x"]]}"#.into());
    add(
        "base64 without end",
        format!(r#"{{"image": "{}"}}"#, &good[..good.len() - 3]),
    );
    add("base64 of text", r#"{"image": "aGVsbG8="}"#.into());
    add("base64 with spaces", r#"{"image": "aGVs bG8="}"#.into());
    add("base64 for addresses", r#"{"image": "_-8="}"#.into());
    add("an unclosed text", r#"{"image": "abc"#.into());
    add(
        "something behind it",
        format!(r#"{{"image": "{good}"}} {{}}"#),
    );
    add("a broken escape", r#"{"image": "\u12"}"#.into());
    add("a lone surrogate", r#"{"image": "\ud800"}"#.into());
    add("a NUL", "{\"image\": \"\0\"}".into());
    add("100,000 lists in each other", "[".repeat(100_000));
    add(
        "100,000 objects in each other",
        r#"{"image":"#.repeat(100_000),
    );
    add(
        "lists in each other as images",
        format!(r#"{{"images": {}"#, "[".repeat(100_000)),
    );
    add(
        "100,000 images",
        format!(r#"{{"images": [{}""]}}"#, r#""","#.repeat(100_000)),
    );
    let keys: Vec<String> = (0..50_000).map(|key| format!("\"{key}\":0")).collect();
    add("50,000 keys", format!("{{{}}}", keys.join(",")));
    add(
        "a number of 500,000 digits",
        format!(r#"{{"image": {}}}"#, "9".repeat(500_000)),
    );
    add("500,000 spaces", format!("{}7", " ".repeat(500_000)));
    add("JavaScript", "{image: 'x'}".into());
    add("NaN", r#"{"image": NaN}"#.into());
    bodies.push(("that is not UTF-8", b"{\"image\": \"\xff\xfe\"}".to_vec()));
    bodies.push((
        "in UTF-16",
        "{\"image\": \"\"}"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect(),
    ));
    bodies.push(("with a byte order mark", b"\xef\xbb\xbf{}".to_vec()));
    for (name, body) in bodies {
        kinds.add(
            format!("JSON: {name}"),
            post("/predict", "application/json", &body),
            Outcome::Refused,
        );
    }
}

fn lengths(kinds: &mut Kinds) {
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

fn heads(kinds: &mut Kinds) {
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

fn slow_and_broken(kinds: &mut Kinds) {
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
