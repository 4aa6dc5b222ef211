//! Hostile images: truncated, damaged, and bombs.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use perceiver_data::Image;
use perceiver_tests::serving::{FORM, form, post};

use crate::kinds::{Kinds, Outcome};

/// The seed images of the fuzz targets.
pub(crate) fn seed(name: &str) -> Vec<u8> {
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

pub(crate) fn raw(body: &[u8]) -> Vec<u8> {
    post("/predict", "application/octet-stream", body)
}

pub(crate) fn good_png() -> Vec<u8> {
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

pub(crate) fn truncated_images(kinds: &mut Kinds) {
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

pub(crate) fn damaged_images(kinds: &mut Kinds) {
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

pub(crate) fn bombs(kinds: &mut Kinds) {
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
