use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::dataset::image::Image;
use crate::error::DataError;

/// Tolerated differences from libjpeg's pixels: maximum and mean. Decoders round and interpolate
/// chroma differently, most of all at the right border.
const TOLERANCE: (u8, f64) = (12, 0.5);

/// The output directory of `tests/oracle/jpeg_grid.py`: JPEGs, and for each kind and size a PNG
/// decoded by djpeg.
fn grid() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/jpeg")
}

fn files() -> Vec<PathBuf> {
    let files = fs::read_dir(grid())
        .unwrap()
        .map(|file| file.unwrap().path());
    let mut files: Vec<PathBuf> = files
        .filter(|file| file.extension().is_some_and(|extension| extension == "jpg"))
        .collect();
    files.sort();
    files
}

fn name(file: &Path) -> &str {
    file.file_name().unwrap().to_str().unwrap()
}

/// Returns the maximum and the mean difference of a file's pixels from djpeg's.
fn difference(file: &Path) -> (u8, f64) {
    let kind = name(file).split('.').next().unwrap();
    let expected = Image::open(grid().join(format!("{kind}.png"))).unwrap();
    let actual = Image::open(file).unwrap();
    assert_eq!(
        (actual.height(), actual.width()),
        (expected.height(), expected.width())
    );
    let pixels = actual.pixels().iter().zip(expected.pixels());
    let differences: Vec<u8> = pixels.map(|(a, b)| a.abs_diff(*b)).collect();
    let sum: f64 = differences.iter().copied().map(f64::from).sum();
    let largest = differences.iter().max().copied().unwrap();
    (largest, sum / differences.len() as f64)
}

#[test]
fn every_sampling_scan_order_and_restart_interval_decodes_as_in_libjpeg() {
    let files = files();
    assert!(files.len() > 80, "{}", files.len());
    for file in files {
        let (largest, mean) = difference(&file);
        assert!(
            largest <= TOLERANCE.0 && mean <= TOLERANCE.1,
            "{}: off by up to {largest}, {mean:.3} on average",
            name(&file)
        );
    }
}

#[test]
fn single_scan_files_use_the_faster_decoder() {
    for file in files() {
        let frame = Frame::of(&fs::read(&file).unwrap()).unwrap();
        let name = name(&file);
        let unusual = name.starts_with("fine-chroma") || name.starts_with("thirds");
        let one = name.contains(".one.") || name.contains(".progressive.");
        let expected = if one && !unusual {
            JpegReader::Library
        } else {
            JpegReader::Separate
        };
        assert_eq!(JpegReader::of(&frame), expected, "{name}");
    }
}

/// jpeg-decoder reads one block too many of a component that has two blocks per unit if the finest
/// has four.
#[test]
fn files_that_neither_decoder_supports_are_rejected() {
    let component = |horizontal| Component {
        horizontal,
        vertical: 1,
    };
    let mut frame = Frame {
        progressive: false,
        precision: 8,
        height: 45,
        width: 67,
        components: [2, 1, 4].map(component).to_vec(),
        in_first_scan: 3,
    };
    assert_eq!(JpegReader::of(&frame), JpegReader::Separate);
    frame.progressive = true;
    assert_eq!(JpegReader::of(&frame), JpegReader::Nobody);
    frame.progressive = false;
    frame.in_first_scan = 1;
    assert_eq!(JpegReader::of(&frame), JpegReader::Nobody);
    frame.components = [1, 1].map(component).to_vec();
    assert_eq!(JpegReader::of(&frame), JpegReader::Nobody);
}

/// The last scan begins at the last `FF DA`; without it, one component has no pixels.
#[test]
fn a_component_without_a_scan_is_rejected() {
    let bytes = fs::read(grid().join("444_45x29.separate.jpg")).unwrap();
    let scans = bytes.windows(2).enumerate();
    let scans = scans.filter(|(_, pair)| *pair == [0xff, 0xda]);
    let last = scans.map(|(at, _)| at).next_back().unwrap();
    let without = [&bytes[..last], b"\xff\xd9"].concat();
    let error = Image::decode(&without, Path::new("two.jpg")).unwrap_err();
    assert!(matches!(error, DataError::NotAnImage { .. }), "{error}");
}

/// Found by fuzzing: a few hundred bytes that claim many megapixels, which take seconds to fill
/// with grey.
#[test]
fn a_size_beyond_the_data_is_rejected() {
    let bytes = fs::read(grid().join("444_45x29.separate.jpg")).unwrap();
    assert!(Image::decode(&bytes, Path::new("honest.jpg")).is_ok());
    let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]);
    let size = frame.unwrap() + 5;
    let mut claims = bytes;
    claims[size..size + 4].copy_from_slice(&[0x10, 0, 0x20, 0]); // 4096 x 8192
    let error = Image::decode(&claims, Path::new("claims.jpg")).unwrap_err();
    assert!(error.to_string().contains("truncated"), "{error}");
}

#[test]
fn cmyk_becomes_rgb() {
    let mut pixels = vec![255, 0, 0, 0, 0, 0, 0, 255, 0, 128, 255, 51];
    inks_to_rgb(&mut pixels);
    assert_eq!(pixels, [0, 255, 255, 0, 0, 0, 204, 102, 0]);
}
