use std::io::Cursor;

use image::{ColorType, DynamicImage, Luma, Rgba, RgbaImage};
use proptest::prelude::*;

use super::*;

const ORIGIN: &str = "shelf/cat.png";

fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn decode(bytes: &[u8]) -> Result<Image> {
    Image::decode(bytes, Path::new(ORIGIN))
}

/// One lossy pixel, written by libwebp; the `image` crate's encoder is lossless.
const LOSSY_WEBP: &[u8] = &[
    0x52, 0x49, 0x46, 0x46, 0x22, 0x00, 0x00, 0x00, 0x57, 0x45, 0x42, 0x50, 0x56, 0x50, 0x38, 0x20,
    0x16, 0x00, 0x00, 0x00, 0x30, 0x01, 0x00, 0x9d, 0x01, 0x2a, 0x01, 0x00, 0x01, 0x00, 0x0e, 0xc0,
    0xfe, 0x25, 0xa4, 0x00, 0x03, 0x70, 0x00, 0x00, 0x00, 0x00,
];

/// One lossy pixel with a separate alpha channel, in the extended layout.
const ALPHA_WEBP: &[u8] = &[
    0x52, 0x49, 0x46, 0x46, 0x4a, 0x00, 0x00, 0x00, 0x57, 0x45, 0x42, 0x50, 0x56, 0x50, 0x38, 0x58,
    0x0a, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x41, 0x4c,
    0x50, 0x48, 0x0c, 0x00, 0x00, 0x00, 0x11, 0x07, 0x10, 0x11, 0xfd, 0x0f, 0x44, 0x44, 0xff, 0x03,
    0x00, 0x00, 0x56, 0x50, 0x38, 0x20, 0x18, 0x00, 0x00, 0x00, 0x14, 0x01, 0x00, 0x9d, 0x01, 0x2a,
    0x01, 0x00, 0x01, 0x00, 0x00, 0x00, 0xfe, 0x00, 0x00, 0x0d, 0xc0, 0x00, 0xfe, 0xe6, 0xb5, 0x00,
    0x00, 0x00,
];

/// 8 x 8 pixels of pure cyan, written by Pillow: CMYK, inverted as Adobe does.
const CMYK_JPEG: &[u8] = include_bytes!("samples/cmyk.jpg");

/// 16 x 8 grey pixels, the left half 0 and the right half 200, progressive.
const PROGRESSIVE_JPEG: &[u8] = include_bytes!("samples/progressive.jpg");

/// One scan per component, with restart intervals.
const SEPARATE_JPEG: &[u8] =
    include_bytes!("../../../../tests/fixtures/jpeg/420_40x24.separate.restarts-3.jpg");

/// Four palette pixels: red, green, blue and a transparent one.
const PALETTE_PNG: &[u8] = include_bytes!("samples/palette.png");

/// 5 x 7 pixels, all different; the sides differ too.
fn sample() -> RgbImage {
    RgbImage::from_fn(5, 7, |x, y| {
        image::Rgb([x as u8 * 50, y as u8 * 36, (x * y) as u8 * 10])
    })
}

fn sample_file(format: ImageFormat) -> Vec<u8> {
    encode(&sample().into(), format)
}

/// Returns a small file of every format, and of the kinds that the encoders here cannot write.
fn sample_files() -> Vec<Vec<u8>> {
    let mut files = FORMATS.map(sample_file).to_vec();
    files.extend(
        [
            LOSSY_WEBP,
            ALPHA_WEBP,
            CMYK_JPEG,
            PROGRESSIVE_JPEG,
            PALETTE_PNG,
            SEPARATE_JPEG,
        ]
        .map(<[u8]>::to_vec),
    );
    files
}

const FORMATS: [ImageFormat; 6] = [
    ImageFormat::Png,
    ImageFormat::Jpeg,
    ImageFormat::WebP,
    ImageFormat::Bmp,
    ImageFormat::Gif,
    ImageFormat::Tiff,
];

/// Returns EXIF metadata that holds an orientation only.
fn exif(orientation: u8) -> Vec<u8> {
    let tiff = [
        b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0",
        &[orientation][..],
        b"\0\0\0\0\0\0",
    ];
    tiff.concat()
}

/// Adds an orientation to the metadata of a file, if its format supports it.
fn with_orientation(file: &[u8], format: ImageFormat, orientation: u8) -> Vec<u8> {
    let exif = exif(orientation);
    match format {
        ImageFormat::Jpeg => {
            let segment = [b"Exif\0\0", exif.as_slice()].concat();
            let length = (segment.len() as u16 + 2).to_be_bytes();
            [&file[..2], &[0xff, 0xe1], &length, &segment, &file[2..]].concat()
        }
        ImageFormat::Png => {
            let chunk = [b"eXIf", exif.as_slice()].concat();
            let (length, crc) = (
                (exif.len() as u32).to_be_bytes(),
                crc32(&chunk).to_be_bytes(),
            );
            [&file[..33], &length, &chunk, &crc, &file[33..]].concat()
        }
        _ => {
            let chunk = |name: &[u8], data: &[u8]| {
                let length = (data.len() as u32).to_le_bytes();
                let padding = &[0][..data.len() % 2];
                [name, &length, data, padding].concat()
            };
            let header = [8, 0, 0, 0, 31, 0, 0, 15, 0, 0]; // has EXIF; 32 x 16
            let chunks = [
                &chunk(b"VP8X", &header),
                &file[12..],
                &chunk(b"EXIF", &exif),
            ]
            .concat();
            chunk(b"RIFF", &[b"WEBP", chunks.as_slice()].concat())
        }
    }
}

#[test]
fn lossless_formats_preserve_every_pixel() {
    let lossless = FORMATS
        .into_iter()
        .filter(|format| *format != ImageFormat::Jpeg);
    for format in lossless {
        let image = decode(&sample_file(format)).unwrap();
        assert_eq!((image.height(), image.width()), (7, 5));
        assert_eq!(image.to_interleaved(), sample().into_raw());
    }
}

#[test]
fn lossy_webp_is_read_with_and_without_alpha() {
    for file in [LOSSY_WEBP, ALPHA_WEBP] {
        let image = decode(file).unwrap();
        assert_eq!((image.height(), image.width()), (1, 1));
    }
}

#[test]
fn other_colour_types_become_rgb() {
    let grey = image::GrayImage::from_pixel(1, 1, Luma([200]));
    let deep = image::ImageBuffer::from_pixel(1, 1, Luma([200_u16 * 257]));
    for image in [DynamicImage::from(grey), DynamicImage::from(deep)] {
        let decoded = decode(&encode(&image, ImageFormat::Png)).unwrap();
        assert_eq!(decoded.pixels(), [200; 3], "{:?}", image.color());
    }
}

#[test]
fn palettes_and_cmyk_become_rgb() {
    let palette = decode(PALETTE_PNG).unwrap().to_interleaved();
    assert_eq!(palette, [255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255]);
    let cyan = decode(CMYK_JPEG).unwrap().to_interleaved();
    assert!(
        cyan.chunks(3)
            .all(|pixel| pixel[0] < 9 && pixel[1] > 246 && pixel[2] > 246),
        "{cyan:?}"
    );
}

#[test]
fn progressive_jpegs_are_decoded_completely() {
    let image = decode(PROGRESSIVE_JPEG).unwrap();
    assert_eq!((image.height(), image.width()), (8, 16));
    let expected = |at: usize| if at % 16 < 8 { 0 } else { 200 };
    let off = |(at, &value): (usize, &u8)| i32::from(value).abs_diff(expected(at)) > 8;
    assert_eq!(
        image.pixels().iter().enumerate().find(|&pixel| off(pixel)),
        None
    );
}

#[test]
fn the_format_is_detected_from_the_content() {
    for format in FORMATS {
        let misnamed = Image::decode(&sample_file(format), Path::new("shelf/cat.txt")).unwrap();
        assert_eq!(misnamed, decode(&sample_file(format)).unwrap());
    }
}

#[test]
fn transparent_pixels_are_composited_on_white() {
    let pixels = [[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 255, 51]];
    let image = RgbaImage::from_fn(3, 1, |x, _| Rgba(pixels[x as usize]));
    for format in [ImageFormat::Png, ImageFormat::WebP] {
        let decoded = decode(&encode(&image.clone().into(), format)).unwrap();
        // 51 is a fifth of 255: one fifth of the colour and four fifths of white.
        let expected = [10, 20, 30, 255, 255, 255, 204, 224, 255];
        assert_eq!(decoded.to_interleaved(), expected);
    }
}

/// Programs write 32-bit BMPs whose last eight bits are zero, and viewers show them as opaque.
#[test]
fn a_bmp_with_all_zero_alpha_is_opaque() {
    let bmp = |alphas: [u8; 2]| {
        let image = RgbaImage::from_fn(2, 1, |x, _| Rgba([10, 20, 30, alphas[x as usize]]));
        let file = encode(&image.into(), ImageFormat::Bmp);
        decode(&file).unwrap().to_interleaved()
    };
    assert_eq!(bmp([0, 0]), [10, 20, 30, 10, 20, 30]);
    assert_eq!(bmp([0, 255]), [255, 255, 255, 10, 20, 30]);
    // The rule applies to BMP only.
    let image = RgbaImage::from_pixel(1, 1, Rgba([10, 20, 30, 0]));
    let png = encode(&image.into(), ImageFormat::Png);
    assert_eq!(decode(&png).unwrap().to_interleaved(), [255; 3]);
}

#[test]
fn the_first_frame_of_an_animation_is_read() {
    let mut gif = Cursor::new(Vec::new());
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut gif);
    for red in [200, 0] {
        let frame = RgbaImage::from_pixel(3, 2, Rgba([red, 40, 0, 255]));
        encoder.encode_frame(image::Frame::new(frame)).unwrap();
    }
    drop(encoder);
    let image = decode(&gif.into_inner()).unwrap();
    assert_eq!((image.height(), image.width()), (2, 3));
    assert_eq!(image.to_interleaved()[..3], [200, 40, 0]);
}

#[test]
fn exif_orientation_is_applied() {
    let halves = RgbImage::from_fn(32, 16, |x, _| image::Rgb([if x < 16 { 0 } else { 255 }; 3]));
    let halves = DynamicImage::from(halves);
    // The position of the black left half of the stored image, by the EXIF standard.
    for (orientation, size, black) in [
        (1, (16, 32), "left"),
        (3, (16, 32), "right"),
        (6, (32, 16), "top"),
        (8, (32, 16), "bottom"),
    ] {
        for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP] {
            let file = encode(&halves, format);
            let image = decode(&with_orientation(&file, format, orientation)).unwrap();
            let (height, width) = (image.height(), image.width());
            assert_eq!(
                (height, width),
                size,
                "{format:?}: orientation {orientation}"
            );
            let red = |row: usize, column: usize| image.pixels()[row * width + column];
            let is_black = match black {
                "left" => red(8, 2) < 9 && red(8, 29) > 246,
                "right" => red(8, 29) < 9 && red(8, 2) > 246,
                "top" => red(2, 8) < 9 && red(29, 8) > 246,
                _ => red(29, 8) < 9 && red(2, 8) > 246,
            };
            assert!(
                is_black,
                "{format:?}: orientation {orientation} puts black {black}"
            );
        }
    }
}

#[test]
fn errors_for_non_images_show_the_first_bytes() {
    for (bytes, finding) in [
        (&b""[..], "an empty file"),
        (
            b"<!DOCTYPE html>",
            r#"bytes that begin with "<!DOCTYPE ht""#,
        ),
        (
            b"\0\0\x01\0\x01\0\x10\x10\0\0\x01\0\x20",
            r#"bytes that begin with "\x00\x00\x01\x00\x01\x00\x10\x10\x00\x00\x01\x00""#,
        ),
    ] {
        let error = decode(bytes).unwrap_err().to_string();
        let expected = format!(
            "{ORIGIN} is not a readable image: expected PNG, JPEG, WebP, BMP, GIF or TIFF, found {finding}"
        );
        assert_eq!(error, expected);
    }
}

#[test]
fn truncated_files_are_rejected_at_any_length() {
    for format in FORMATS {
        let whole = sample_file(format);
        // A PNG has 12 bytes of end marker after its last pixel.
        for length in 0..whole.len() - 12 {
            let error = decode(&whole[..length]).unwrap_err();
            assert!(
                matches!(error, DataError::NotAnImage { .. }),
                "{format:?} {length}: {error}"
            );
        }
    }
}

#[test]
fn the_end_marker_of_a_thumbnail_does_not_end_the_jpeg() {
    let jpeg = sample_file(ImageFormat::Jpeg);
    let with_thumbnail =
        |jpeg: &[u8]| [&jpeg[..2], b"\xff\xe1\0\x06\xff\xd9\xff\xd9", &jpeg[2..]].concat();
    decode(&with_thumbnail(&jpeg)).unwrap();
    decode(&with_thumbnail(&jpeg[..jpeg.len() - 2])).unwrap_err();
}

#[test]
fn trailing_bytes_are_ignored() {
    for format in FORMATS {
        let mut bytes = sample_file(format);
        bytes.extend_from_slice(b"trailing bytes of any length");
        decode(&bytes).unwrap();
    }
}

/// Returns a PNG of a few bytes whose header claims `side` x `side` pixels of 8-bit RGB.
fn png_claiming(side: u32) -> Vec<u8> {
    png_of(side, ColorType::Rgb8)
}

fn png_of(side: u32, colour: ColorType) -> Vec<u8> {
    let mut png = Vec::new();
    let mut encoder = Vec::new();
    let png_encoder = image::codecs::png::PngEncoder::new(&mut encoder);
    let pixel = vec![0; usize::from(colour.bytes_per_pixel())];
    image::ImageEncoder::write_image(png_encoder, &pixel, 1, 1, colour.into()).unwrap();
    png.extend_from_slice(&encoder[..16]);
    png.extend_from_slice(&side.to_be_bytes());
    png.extend_from_slice(&side.to_be_bytes());
    png.extend_from_slice(&encoder[24..29]);
    png.extend_from_slice(&crc32(&png[12..29]).to_be_bytes());
    png.extend_from_slice(&encoder[33..]);
    png
}

/// Computes the checksum of PNG chunks.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc: u32, _| {
            (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
        })
    })
}

#[test]
fn decompression_bombs_are_rejected_by_their_header() {
    let error = decode(&png_claiming(60_000)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "shelf/cat.png is too large: 60000 x 60000 pixels take 20600 MiB to decode, expected at most 512 MiB"
    );
    assert!(matches!(error, DataError::TooManyPixels { .. }));
}

/// A file of 64 kB that decodes to half a gigabyte of grey, and to three times as much RGB.
#[test]
fn memory_of_color_conversion_is_counted() {
    let bytes = png_of(23_000, ColorType::L8);
    let error = decode(&bytes).unwrap_err();
    let DataError::TooManyPixels { needed, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(needed, 2 * 3 * 23_000 * 23_000);
    let error = Image::decode_shrunk(&bytes, Path::new(ORIGIN), 64).unwrap_err();
    assert!(matches!(error, DataError::TooManyPixels { .. }), "{error}");
}

/// The budget accepts and rejects exactly what an image takes: 60 x 40 pixels, decoded, oriented
/// and converted.
#[test]
fn decoding_stays_within_the_estimated_memory() {
    let image = DynamicImage::from(RgbImage::from_pixel(60, 40, image::Rgb([7; 3])));
    let png = encode(&image, ImageFormat::Png);
    let turned = with_orientation(&png, ImageFormat::Png, 6);
    let within = |limit, bytes: &[u8], side| {
        decode_within(&DecodeBudget::new(limit), bytes, Path::new(ORIGIN), side)
    };
    let whole = 2 * 3 * 60 * 40;
    within(whole, &png, None).unwrap();
    within(whole - 1, &png, None).unwrap_err();
    // Downscaled to 15 x 10, it takes rows of floats instead: 60 x 10 pixels of 16 bytes.
    let shrunk = 3 * 60 * 40 + 16 * 60 * 10 + 2 * 3 * 15 * 10;
    within(shrunk, &png, Some(10)).unwrap();
    within(shrunk - 1, &png, Some(10)).unwrap_err();
    // Oriented after downscaling if there is no room for two full-size copies.
    let once = 3 * 60 * 40 + 16 * 60 * 2 + 2 * 3 * 3 * 2;
    let small = within(once, &turned, Some(2)).unwrap();
    within(once - 1, &turned, Some(2)).unwrap_err();
    let large = within(whole, &turned, Some(2)).unwrap();
    assert_eq!(small, large);
    assert_eq!((small.height(), small.width()), (3, 2));
    assert_eq!(small.original_size(), (60, 40));
}

#[test]
fn decode_shrunk_equals_decode_then_downscale() {
    for format in FORMATS {
        let bytes = with_orientation_or_not(format);
        let whole = decode(&bytes).unwrap();
        let at_once = Image::decode_shrunk(&bytes, Path::new(ORIGIN), 3).unwrap();
        assert_eq!(at_once, whole.clone().shrunk_to(3), "{format:?}");
        assert_eq!(at_once.original_size(), (whole.height(), whole.width()));
    }
}

fn with_orientation_or_not(format: ImageFormat) -> Vec<u8> {
    let file = sample_file(format);
    match format {
        ImageFormat::Png | ImageFormat::Jpeg => with_orientation(&file, format, 6),
        _ => file,
    }
}

#[test]
fn images_without_pixels_are_rejected() {
    let error = decode(&png_claiming(0)).unwrap_err();
    assert!(matches!(error, DataError::NotAnImage { .. }), "{error}");
}

#[test]
fn errors_name_missing_and_unwritable_files() {
    let dir = tempfile::tempdir().unwrap();
    let error = Image::open(dir.path().join("no.png"))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("cannot read ") && error.contains("no.png"),
        "{error}"
    );
    let image = decode(&sample_file(ImageFormat::Png)).unwrap();
    let error = image
        .write_png(dir.path().join("no/no.png"))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("cannot write ") && error.contains("no.png"),
        "{error}"
    );
}

proptest! {

    #[test]
    fn random_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        signature in prop::sample::select(vec![
            &b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"[..], b"\xff\xd8\xff", b"RIFF\x40\0\0\0WEBPVP8X", b"BM", b"GIF89a", b"II*\0", b"",
        ]),
    ) {
        let _ = decode(&[signature, &bytes].concat());
    }

    #[test]
    fn damaged_images_never_panic(
        file in prop::sample::select(sample_files()),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = file;
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = decode(&bytes);
        let _ = decode(&bytes[..cut.index(bytes.len())]);
    }
}
