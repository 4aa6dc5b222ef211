//! An image folder as users have it, with images of all sizes and formats and some broken files:
//! training, evaluation, and prediction of its images, however they are named.

use std::fmt::Write as _;
use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;
use std::process::Stdio;

use image::{DynamicImage, ImageFormat, Luma, Rgb, RgbImage, Rgba};
use perceiver_tests::program::{ProgramOutput, Sandbox};
use proptest::prelude::*;
use serde_json::Value;

const CLASSES: [(&str, [u8; 3]); 3] = [
    ("crème brûlée", [230, 190, 90]),
    ("golden retriever", [40, 160, 60]),
    ("ぞう", [20, 30, 200]),
];

/// Height and width of the readable images of each class: single pixels, stripes, large images.
const SIZES: [(u32, u32); 12] = [
    (1, 1),
    (1, 300),
    (300, 1),
    (2, 3),
    (16, 16),
    (17, 31),
    (64, 48),
    (48, 64),
    (200, 150),
    (900, 40),
    (40, 900),
    (700, 1000),
];

/// Files in the folder that are not readable images, by class and name.
const BROKEN: [(usize, &str); 8] = [
    (0, "empty.png"),
    (0, "page.jpg"),
    (0, "huge.png"),
    (1, "cut 1.png"),
    (1, "cut 2.jpg"),
    (1, "cut 3.webp"),
    (2, "cut 4.jpeg"),
    (2, "text.bmp"),
];

fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Returns an image of a class, in the size, colour type and format of its number.
fn encoded_image(colour: [u8; 3], number: usize) -> (Vec<u8>, &'static str) {
    let (height, width) = SIZES[number];
    let rgb = DynamicImage::from(RgbImage::from_fn(width, height, |x, y| {
        Rgb(colour.map(|value| value.wrapping_add(((x * 7 + y * 3 + number as u32) % 20) as u8)))
    }));
    match number % 8 {
        0 => (encode(&rgb, ImageFormat::Png), "png"),
        1 => (encode(&rgb, ImageFormat::Jpeg), "JPG"),
        2 => (encode(&rgb, ImageFormat::WebP), "webp"),
        3 => (encode(&rgb, ImageFormat::Bmp), "bmp"),
        4 => {
            let mut rgba = rgb.into_rgba8();
            rgba.put_pixel(0, 0, Rgba([0; 4]));
            (encode(&rgba.into(), ImageFormat::Png), "png")
        }
        5 => (encode(&rgb.into_rgb16().into(), ImageFormat::Png), "PNG"),
        // The extension does not match the format.
        6 => (encode(&rgb, ImageFormat::Png), "jpg"),
        _ => {
            let grey = image::GrayImage::from_pixel(width, height, Luma([colour[0]]));
            (encode(&grey.into(), ImageFormat::Jpeg), "jpeg")
        }
    }
}

/// Returns a PNG of a few bytes that claims 60,000 x 60,000 pixels.
fn huge() -> Vec<u8> {
    let mut png = encode(&RgbImage::new(1, 1).into(), ImageFormat::Png);
    png[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let mut crc = !0_u32;
    for byte in &png[12..29] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
        }
    }
    png[29..33].copy_from_slice(&(!crc).to_be_bytes());
    png
}

fn broken(name: &str) -> Vec<u8> {
    let rgb = RgbImage::from_fn(40, 30, |x, y| {
        Rgb([x as u8 * 5, y as u8 * 7, (x * y) as u8])
    });
    let cut = |format, share: usize| {
        let file = encode(&rgb.clone().into(), format);
        file[..file.len() * share / 100].to_vec()
    };
    match name {
        "empty.png" => Vec::new(),
        "page.jpg" => b"<!DOCTYPE html><title>404</title>".to_vec(),
        "huge.png" => huge(),
        "cut 1.png" => cut(ImageFormat::Png, 40),
        "cut 2.jpg" => cut(ImageFormat::Jpeg, 95),
        "cut 3.webp" => cut(ImageFormat::WebP, 10),
        "cut 4.jpeg" => cut(ImageFormat::Jpeg, 60),
        _ => b"no picture at all".to_vec(),
    }
}

/// Returns a sandbox with the folder `photos`.
fn new_sandbox() -> Sandbox {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    for (class, colour) in CLASSES {
        for number in 0..SIZES.len() {
            let (bytes, extension) = encoded_image(colour, number);
            let folder = if number % 5 == 0 { "/deep/down" } else { "" };
            sandbox.write(
                &format!("photos/{class}{folder}/{number:02}.{extension}"),
                bytes,
            );
        }
    }
    for (class, name) in BROKEN {
        sandbox.write(&format!("photos/{}/{name}", CLASSES[class].0), broken(name));
    }
    let passed_over = [
        "photos/notes.txt",
        "photos/ぞう/notes.txt",
        "photos/ぞう/.hidden.png",
        "photos/.cache/x.png",
    ];
    for name in passed_over {
        sandbox.write(name, "no picture");
    }
    circles(&sandbox.path("photos"));
    sandbox
}

/// Creates links that lead back to their own parent folders.
#[cfg(unix)]
fn circles(photos: &Path) {
    use std::os::unix::fs::symlink;
    symlink(photos, photos.join("ぞう/circle")).unwrap();
    symlink(photos.join("ぞう"), photos.join("ぞう/deep/circle")).unwrap();
    symlink(photos, photos.join("circle")).unwrap();
}

#[cfg(not(unix))]
fn circles(_: &Path) {}

fn trained(sandbox: &Sandbox) -> ProgramOutput {
    sandbox.succeed("train --preset quickstart --dataset folder:photos --config tiny.toml --epochs 2 --output run")
}

/// Returns the numbers of broken and of all images, from the summary line of each split: "... 2 of
/// 9 images cannot be read ...".
fn counts(stderr: &str) -> (usize, usize) {
    let lines = stderr
        .lines()
        .filter(|line| line.contains("images cannot be read"));
    lines.fold((0, 0), |(broken, all), line| {
        let (before, after) = line.split_once(" of ").unwrap();
        let number = |word: Option<&str>| word.unwrap().parse::<usize>().unwrap();
        (
            broken + number(before.rsplit(' ').next()),
            all + number(after.split(' ').next()),
        )
    })
}

#[test]
fn corrupt_images_are_skipped_in_training_evaluation_and_resuming() {
    let sandbox = new_sandbox();
    let output = trained(&sandbox);
    for (_, name) in BROKEN {
        let named = output
            .err
            .lines()
            .filter(|line| line.contains(name) && line.contains("skipped"));
        assert_eq!(named.count(), 1, "{name}: {}", output.err);
    }
    let (broken, all) = counts(&output.err);
    assert!(
        broken == BROKEN.len() && all <= BROKEN.len() + 3 * SIZES.len(),
        "{}",
        output.err
    );

    let config: Value =
        serde_json::from_slice(&fs::read(sandbox.path("run/config.json")).unwrap()).unwrap();
    let results: Value =
        serde_json::from_slice(&fs::read(sandbox.path("run/results.json")).unwrap()).unwrap();
    let used =
        config["data"]["train_images"].as_u64().unwrap() + results["images"].as_u64().unwrap();
    assert_eq!(used as usize, 3 * SIZES.len());
    for (label, (name, _)) in CLASSES.iter().enumerate() {
        assert_eq!(config["id2label"][label.to_string()], *name);
    }

    let evaluated = sandbox.succeed("evaluate --checkpoint run --json").out;
    assert_eq!(
        evaluated,
        fs::read_to_string(sandbox.path("run/results.json")).unwrap()
    );
    let report = || fs::read_to_string(sandbox.path("run/report.html")).unwrap();
    for (name, _) in CLASSES {
        assert!(report().contains(&format!("<th scope=\"row\">{name}</th>")));
    }
    assert!(report().contains("<dt>Epochs</dt><dd>2</dd>"));
    // The same images are skipped again, so that the data are the same.
    let resumed = sandbox.succeed("train --resume run --epochs 3");
    assert_eq!(counts(&resumed.err), (broken, all));
    assert!(report().contains("<dt>Epochs</dt><dd>3</dd>"));
}

#[test]
fn corrupt_images_are_errors_by_name_if_the_recipe_says_so() {
    let sandbox = new_sandbox();
    let output = sandbox.run("train --preset quickstart --dataset folder:photos --config tiny.toml --set data.broken_images=refuse");
    assert_eq!(output.code, Some(1));
    assert!(
        BROKEN.iter().any(|(_, name)| output
            .err
            .contains(&format!("{name} is not a readable image"))
            || output
                .err
                .contains(&format!("{name} is too large: 60000 x 60000 pixels"))),
        "{}",
        output.err
    );
    assert!(!sandbox.path("runs").exists());
}

/// Writes images of 30 x 20 pixels whose middle shows the class, with noise on both sides.
fn wide(sandbox: &Sandbox) {
    for (class, colour) in [("cat", [230, 10, 10]), ("dog", [10, 10, 230])] {
        for number in 0..10_u32 {
            let image = RgbImage::from_fn(30, 20, |x, y| {
                let noise = (x * 37 + y * 91 + number * 53) % 256;
                if (5..25).contains(&x) {
                    Rgb(colour)
                } else {
                    Rgb([noise as u8; 3])
                }
            });
            let middle = image::imageops::crop_imm(&image, 5, 0, 20, 20).to_image();
            let png = |image: RgbImage| encode(&image.into(), ImageFormat::Png);
            sandbox.write(&format!("wide/{class}/{number}.png"), png(image));
            sandbox.write(&format!("middle/{class}/{number}.png"), png(middle));
        }
    }
}

#[test]
fn non_square_images_are_fitted_as_the_recipe_says_everywhere() {
    let sandbox = Sandbox::new(env!("CARGO_BIN_EXE_perceiver-under-test"));
    wide(&sandbox);
    let train = "train --preset quickstart --dataset folder:wide --config tiny.toml";
    for (fit, done) in [
        ("stretch", "stretched"),
        ("crop", "cropped"),
        ("pad", "padded"),
    ] {
        let stderr = sandbox
            .succeed(&format!("{train} --set data.fit={fit} --output {fit}"))
            .err;
        let line = stderr
            .lines()
            .find(|line| line.contains("images of 30x20 ->"));
        let line = line.unwrap_or_else(|| panic!("{stderr}"));
        assert!(line.contains(&format!(", {done}; ")), "{line}");
        assert!(
            line.contains(" train, 2 validation, 4 test; 2 classes"),
            "{line}"
        );
        let config = fs::read(sandbox.path(format!("{fit}/config.json"))).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["preprocessing"]["fit"], fit);

        let evaluated = sandbox
            .succeed(&format!("evaluate --checkpoint {fit} --json"))
            .out;
        let results = fs::read_to_string(sandbox.path(format!("{fit}/results.json"))).unwrap();
        assert_eq!(evaluated, results);
        let images = "wide/cat/3.png middle/cat/3.png";
        let predicted = sandbox
            .succeed(&format!("predict --checkpoint {fit} --json {images}"))
            .out;
        let classes: Vec<Value> = predicted
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["classes"].clone())
            .collect();
        // With cropping, the entire image and its middle are the same input.
        assert_eq!(classes[0] == classes[1], fit == "crop", "{predicted}");
        sandbox.succeed(&format!(
            "attention --checkpoint {fit} --output {fit}.png wide/cat/3.png"
        ));
    }
    let output = sandbox.run(&format!("{train} --set data.fit=squash"));
    assert!(
        output.code != Some(0) && output.err.contains("`stretch`, `crop`, `pad`"),
        "{}",
        output.err
    );
}

#[test]
fn classes_with_only_corrupt_images_are_named() {
    let sandbox = new_sandbox();
    for number in 0..4 {
        sandbox.write(&format!("photos/only broken/{number}.png"), "no picture");
    }
    let output =
        sandbox.run("train --preset quickstart --dataset folder:photos --config tiny.toml");
    assert_eq!(output.code, Some(1));
    let expected =
        "class \"only broken\" has no readable image: expected at least one, found 3 unreadable";
    assert!(output.err.contains(expected), "{}", output.err);
}

/// Runs a command with a list on its standard input.
fn with_input(sandbox: &Sandbox, arguments: &str, input: &[u8]) -> ProgramOutput {
    let mut program = sandbox
        .command(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    program.stdin.take().unwrap().write_all(input).unwrap();
    let output = program.wait_with_output().unwrap();
    ProgramOutput {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn images(json: &str) -> Vec<String> {
    let image = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["image"].as_str().unwrap().to_string()
    };
    json.lines().map(image).collect()
}

#[test]
fn predictions_are_the_same_for_every_way_to_name_images() {
    let sandbox = new_sandbox();
    trained(&sandbox);
    let predict = "predict --checkpoint run --json";
    let folder = sandbox.run(&format!("{predict} photos"));
    assert_eq!(folder.code, Some(1), "{}", folder.err);
    let listed = images(&folder.out);
    assert_eq!(listed.len(), 3 * SIZES.len());
    assert!(listed.is_sorted(), "{listed:?}");
    for (class, name) in BROKEN {
        let file = Path::new("photos").join(CLASSES[class].0).join(name);
        let reported = format!("error: {} ", file.display());
        assert_eq!(
            folder.err.matches(&reported).count(),
            1,
            "{reported}: {}",
            folder.err
        );
    }

    let good = listed
        .iter()
        .filter(|path| !path.contains("deep"))
        .cloned()
        .collect::<Vec<_>>();
    let only = |paths: &[String]| {
        let lines = folder
            .out
            .lines()
            .filter(|line| paths.contains(&images(line)[0]));
        lines
            .flat_map(|line| {
                [
                    line, "
",
                ]
            })
            .collect::<String>()
    };
    let expected = only(&good);
    let pattern = sandbox.run(&format!("{predict} photos/*/[01]*.*"));
    assert_eq!(
        (pattern.code, pattern.out.as_str()),
        (Some(0), expected.as_str()),
        "{}",
        pattern.err
    );
    for (flag, end) in [("", "\n"), ("", "\r\n\r\n"), ("--null", "\0"), ("-0", "\0")] {
        let list: String = good.iter().flat_map(|path| [path.as_str(), end]).collect();
        let output = with_input(&sandbox, &format!("{predict} {flag} -"), list.as_bytes());
        assert_eq!(
            (output.code, &output.out),
            (Some(0), &expected),
            "{end:?}: {}",
            output.err
        );
    }
    // In the order of the arguments, which here can only be paths without spaces.
    let elephants: Vec<String> = good
        .into_iter()
        .filter(|path| path.contains("ぞう"))
        .rev()
        .collect();
    let files = sandbox.succeed(&format!("{predict} {}", elephants.join(" ")));
    assert_eq!(images(&files.out), elephants);
}

#[test]
fn unreadable_inputs_are_named_and_the_rest_is_predicted() {
    let sandbox = new_sandbox();
    trained(&sandbox);
    fs::create_dir(sandbox.path("empty")).unwrap();
    let (name, colour) = CLASSES[2];
    let file = format!("photos/{name}/01.JPG");
    assert_eq!(encoded_image(colour, 1).1, "JPG");
    for (named, message) in [
        ("empty", "error: folder empty: expected images, found no "),
        (
            "*.gif",
            "error: pattern *.gif: expected images, found no matching file",
        ),
        ("nowhere.png", "error: cannot read nowhere.png"),
    ] {
        let output = sandbox.run(&format!("predict --checkpoint run --json {named} {file}"));
        assert_eq!(output.code, Some(1), "{}", output.err);
        assert_eq!(images(&output.out), [file.as_str()]);
        assert!(output.err.contains(message), "{}", output.err);
    }
    let nothing = with_input(&sandbox, "predict --checkpoint run -", b"\n\r\n");
    assert_eq!(nothing.code, Some(1), "{}", nothing.err);
    let message = "error: standard input: expected paths of images, one per line, found none";
    assert!(nothing.err.contains(message), "{}", nothing.err);
    assert_eq!(sandbox.run("predict --checkpoint run").code, Some(2));
}

#[test]
fn every_output_format_has_the_same_content() {
    let sandbox = new_sandbox();
    trained(&sandbox);
    let odd = "a, \"b\".png";
    sandbox.write(&format!("odd/{odd}"), encoded_image(CLASSES[1].1, 0).0);
    sandbox.write("odd/c.png", encoded_image(CLASSES[2].1, 4).0);
    let stdout_of = |format: &str| {
        sandbox
            .succeed(&format!("predict --checkpoint run --top-k 2 odd {format}"))
            .out
    };
    let json: Vec<Value> = stdout_of("--json")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(json.len(), 2);
    assert_eq!(stdout_of("--format json"), stdout_of("--json"));

    let mut csv = "image,rank,class,probability,image_percent_encoded\n".to_string();
    let mut text = String::new();
    let mut cells = vec!["image", "probability", "class"]
        .into_iter()
        .map(String::from)
        .collect::<Vec<_>>();
    for prediction in &json {
        let image = prediction["image"].as_str().unwrap();
        assert_eq!(Path::new(image).parent(), Some(Path::new("odd")));
        writeln!(text, "{image}").unwrap();
        cells.push(image.to_string());
        for (rank, candidate) in prediction["classes"].as_array().unwrap().iter().enumerate() {
            let class = candidate["class"].as_str().unwrap();
            let probability = candidate["probability"].as_f64().unwrap() as f32;
            let quoted = if image.contains('"') {
                format!("\"{}\"", image.replace('"', "\"\""))
            } else {
                image.to_string()
            };
            let line = (rank + 1, &candidate["probability"]);
            writeln!(csv, "{quoted},{},{class},{},", line.0, line.1).unwrap();
            writeln!(text, "  {:6.2}%  {class}", 100.0 * probability).unwrap();
            cells.extend([format!("{:.2}%", 100.0 * probability), class.to_string()]);
        }
    }
    assert_eq!(stdout_of("--format csv"), csv);
    assert_eq!(stdout_of("--format text"), text);
    assert_eq!(stdout_of(""), text);
    let table = stdout_of("--format table");
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(squeezed(&table), squeezed(&cells.join(" ")));
    assert_eq!(table.lines().count(), 1 + 2 * 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any truncated or modified file gives an image or an error, and no panic.
    #[test]
    fn damaged_image_files_give_an_image_or_an_error(
        number in 0..8_usize,
        cut in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let (mut bytes, _) = encoded_image(CLASSES[0].1, number);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let kept = cut.index(bytes.len() + 1);
        if let Ok(image) = perceiver_data::Image::decode(&bytes[..kept], Path::new("x")) {
            prop_assert_eq!(image.pixels().len(), 3 * image.height() * image.width());
        }
    }
}
