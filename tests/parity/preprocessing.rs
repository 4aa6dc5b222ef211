//! Normalization, resizing, flipping and zooming.

use candle_core::Tensor;
use perceiver_data::{Dataset, Draw, Fit, Image, Normalization, Preprocessing};

use crate::golden::{self, Arrays, assert_close, read, values};

const TOLERANCE: f32 = 1e-4;

/// Returns the reference images, `[n, H, W, 3]` bytes, as a data set.
fn dataset(arrays: &Arrays) -> Dataset {
    let (count, height, width, _) = arrays["images"].dims4().unwrap();
    let bytes: Vec<u8> = arrays["images"].flatten_all().unwrap().to_vec1().unwrap();
    let images: Vec<Image> = bytes
        .chunks(bytes.len() / count)
        .map(|pixels| Image::from_interleaved(height, width, pixels).unwrap())
        .collect();
    Dataset::new("golden", images, vec![0; count], vec!["any".into()]).unwrap()
}

/// Preprocesses every image with its own draw.
/// Returns the results in Keras's order, `[n, s, s, 3]`.
fn preprocess(dataset: &Dataset, image_size: usize, draw: impl Fn(usize) -> Draw) -> Tensor {
    let preprocessing = Preprocessing {
        image_size,
        antialias: false,
        fit: Fit::Stretch,
        normalization: Normalization::adapt(dataset).unwrap(),
        transformers: None,
    };
    let length = 3 * image_size * image_size;
    let mut pixels = vec![0f32; dataset.len() * length];
    for (index, output) in pixels.chunks_mut(length).enumerate() {
        preprocessing
            .apply(&dataset.images()[index], &draw(index), output)
            .unwrap();
    }
    let shape = (dataset.len(), 3, image_size, image_size);
    let tensor = Tensor::from_vec(pixels, shape, &candle_core::Device::Cpu).unwrap();
    tensor.permute((0, 2, 3, 1)).unwrap()
}

#[test]
fn every_step_equals_keras() {
    for directory in golden::directories() {
        let arrays = read(&directory.join("preprocess.safetensors"));
        let what = |key: &str| format!("{}: {key}", directory.display());
        let dataset = dataset(&arrays);

        let normalization = Normalization::adapt(&dataset).unwrap();
        for (key, actual) in [
            ("mean", &normalization.mean),
            ("variance", &normalization.variance),
        ] {
            let actual = Tensor::new(actual.as_slice(), &candle_core::Device::Cpu).unwrap();
            assert_close(&actual, &arrays[key], TOLERANCE, &what(key));
        }

        let size = arrays["images"].dim(1).unwrap();
        let plain = |_| Draw::NONE;
        for (key, size) in [
            ("normalized", size),
            ("resized64", 64),
            ("resized48", 48),
            ("resized_down20", 20),
        ] {
            assert_close(
                &preprocess(&dataset, size, plain),
                &arrays[key],
                TOLERANCE,
                &what(key),
            );
        }

        let flip = |_| Draw {
            flip: true,
            ..Draw::NONE
        };
        let flipped = preprocess(&dataset, 64, flip);
        assert_close(&flipped, &arrays["flipped"], TOLERANCE, &what("flipped"));

        let (heights, widths) = (
            values(&arrays["height_zoom"]),
            values(&arrays["width_zoom"]),
        );
        let zoom = |index: usize| Draw {
            flip: false,
            height_zoom: heights[index],
            width_zoom: widths[index],
            ..Draw::NONE
        };
        let zoomed = preprocess(&dataset, 64, zoom);
        assert_close(&zoomed, &arrays["zoomed"], TOLERANCE, &what("zoomed"));
    }
}
