//! `preprocessor_config.json`: how a picture becomes input, in the words that other programs of the Hub have for it.
//!
//! They resize pixel values 0 to 255, divide by 255 and normalize; ours are normalized before they are resized, which
//! is the same but for rounding, since they round the resized pixels to bytes. `config.json` is what this program reads.

use perceiver_data::Preprocessing;
use serde::Serialize;

/// Bilinear, as Pillow numbers its filters.
const BILINEAR: u8 = 2;

/// The largest value of a pixel.
const WHITE: f64 = 255.0;

/// What `preprocessor_config.json` says.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "the file's own fields")]
pub struct PreprocessorConfig {
    /// The class of `transformers` that does these steps.
    image_processor_type: &'static str,
    do_convert_rgb: bool,
    do_resize: bool,
    size: Size,
    resample: u8,
    do_rescale: bool,
    rescale_factor: f64,
    do_normalize: bool,
    /// Mean of each channel, of values 0 to 1.
    image_mean: Vec<f64>,
    /// Standard deviation of each channel, of values 0 to 1.
    image_std: Vec<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Size {
    height: usize,
    width: usize,
}

impl PreprocessorConfig {
    /// The same preprocessing, in those words.
    pub fn new(preprocessing: &Preprocessing) -> Self {
        let side = preprocessing.image_size;
        let normalization = &preprocessing.normalization;
        let mean = normalization.mean.iter().map(|&mean| f64::from(mean));
        let variance = normalization.variance.iter();
        let deviation = variance.map(|&variance| f64::from(variance).sqrt().max(1e-7));
        Self {
            image_processor_type: "ViTImageProcessor",
            do_convert_rgb: true,
            do_resize: true,
            size: Size {
                height: side,
                width: side,
            },
            resample: BILINEAR,
            do_rescale: true,
            rescale_factor: 1.0 / WHITE,
            do_normalize: true,
            image_mean: mean.map(|mean| mean / WHITE).collect(),
            image_std: deviation.map(|deviation| deviation / WHITE).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perceiver_data::{Image, Normalization};

    #[test]
    fn its_numbers_make_the_same_input() {
        let preprocessing = Preprocessing {
            image_size: 1,
            antialias: false,
            normalization: Normalization {
                mean: vec![100.0, 120.0, 140.0],
                variance: vec![400.0, 900.0, 2500.0],
            },
        };
        let config = PreprocessorConfig::new(&preprocessing);
        let pixel = [10u8, 200, 255];
        let image = Image::new(1, 1, pixel.to_vec()).unwrap();
        let input = preprocessing.tensor(&[image]).unwrap();
        let ours: Vec<f32> = input.flatten_all().unwrap().to_vec1().unwrap();
        for channel in 0..3 {
            let rescaled = f64::from(pixel[channel]) * config.rescale_factor;
            let theirs = (rescaled - config.image_mean[channel]) / config.image_std[channel];
            assert!((theirs - f64::from(ours[channel])).abs() < 1e-5);
        }
    }
}
