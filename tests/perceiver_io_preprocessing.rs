//! Preprocessing of Perceiver IO checkpoints, against transformers and Pillow.
//!
//! The numbers are in `fixtures/perceiver_io/pictures` (`oracle/perceiver_io_pictures.py` computes
//! them), and, if set, in `pictures` of `PERCEIVER_IO_GOLDEN_DIR`, or else in
//! `perceiver_io/pictures` of `PERCEIVER_GOLDEN_DIR`.

use std::env;
use std::path::{Path, PathBuf};
use std::slice::from_ref;

use candle_core::{Device, Tensor};
use perceiver_data::{Image, PillowFilter, Sides, TransformersPreprocessing, pillow_resize};

/// The folders with pictures and their pixel values.
fn folders() -> Vec<PathBuf> {
    let set = |variable, below: &str| {
        let folder: Option<PathBuf> = env::var_os(variable).map(PathBuf::from);
        folder.map(|folder| folder.join(below))
    };
    let mut folders = vec![fixtures()];
    if let Some(named) = set("PERCEIVER_IO_GOLDEN_DIR", "pictures") {
        assert!(named.is_dir(), "{} is no folder", named.display());
        folders.push(named);
    } else if let Some(shared) = set("PERCEIVER_GOLDEN_DIR", "perceiver_io/pictures") {
        folders.extend(shared.is_dir().then_some(shared));
    }
    folders
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/perceiver_io/pictures")
}

/// The tensors of a file, with their names.
fn tensors(path: &Path) -> Vec<(String, Tensor)> {
    let tensors = candle_core::safetensors::load(path, &Device::Cpu)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(!tensors.is_empty(), "{} is empty", path.display());
    tensors.into_iter().collect()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn pixel_values_equal_those_of_transformers() {
    for folder in folders() {
        for (name, expected) in tensors(&folder.join("pixel_values.safetensors")) {
            let image = Image::open(folder.join(&name)).unwrap();
            let (channels, height, width) = expected.dims3().unwrap();
            let preprocessing = TransformersPreprocessing {
                size: Sides { height, width },
                crop_size: Sides {
                    height: height * 8 / 7,
                    width: width * 8 / 7,
                },
                ..TransformersPreprocessing::default()
            };
            let resized = preprocessing.resized(&image).unwrap();
            let actual = preprocessing.tensor(from_ref(&image)).unwrap();
            assert_eq!(actual.dims(), [1, channels, height, width], "{name}");

            let (actual, expected) = (values(&actual), values(&expected));
            let (mut wrong_bytes, mut distance) = (0, 0_f32);
            for (at, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
                let channel = at / (height * width);
                let level = f64::from(*expected) * preprocessing.image_std[channel]
                    + preprocessing.image_mean[channel];
                let byte = (level * 255.0).round() as u8;
                wrong_bytes += usize::from(resized.pixels()[at] != byte);
                distance = distance.max((actual - expected).abs());
            }
            println!(
                "{}/{name}: {wrong_bytes} other bytes, distance {distance:e}",
                folder.display()
            );
            assert_eq!(wrong_bytes, 0, "{name}");
            assert!(distance <= 1e-6, "{name}: {distance:e}");
        }
    }
}

#[test]
fn resized_pictures_equal_those_of_pillow() {
    let folder = fixtures();
    for (name, expected) in tensors(&folder.join("resized.safetensors")) {
        let parts: Vec<&str> = name.split('/').collect();
        let [file, filter, _] = parts[..] else {
            panic!("{name}: expected a file, a filter and a size");
        };
        let image = Image::open(folder.join(file)).unwrap();
        let filter = PillowFilter::from_number(filter.parse().unwrap()).unwrap();
        let (_, height, width) = expected.dims3().unwrap();
        let resized = pillow_resize(&image, height, width, filter).unwrap();
        let expected: Vec<u8> = expected.flatten_all().unwrap().to_vec1().unwrap();
        assert!(resized.pixels() == expected, "{name}");
    }
}

/// The file of the Hub's checkpoints, of 224 pixels, is transformers' default.
#[test]
fn checkpoints_have_the_default_preprocessing() {
    for folder in folders() {
        let file = folder.join("../fourier/preprocessor_config.json");
        if let Ok(json) = std::fs::read(&file) {
            let read = TransformersPreprocessing::from_json(&json).unwrap();
            let default = TransformersPreprocessing::default();
            assert_eq!(read, default, "{}", file.display());
        }
    }
}
