//! Hostile bodies: content types, forms and JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use perceiver_tests::serving::{FORM, form, post};

use crate::images::good_png;
use crate::kinds::{Kinds, Outcome};

pub(crate) fn content_types(kinds: &mut Kinds) {
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

pub(crate) fn forms(kinds: &mut Kinds) {
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

pub(crate) fn json_bodies(kinds: &mut Kinds) {
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
