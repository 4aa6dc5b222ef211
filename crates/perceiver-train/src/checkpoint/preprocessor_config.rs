//! `preprocessor_config.json`: the preprocessing in the format of Hugging Face transformers.
//!
//! transformers resizes pixel values 0 to 255, divides by 255 and normalizes. This project
//! normalizes before it resizes, which is the same except for rounding: transformers rounds the
//! resized pixels to bytes. This program itself reads `config.json` only.

use perceiver_data::{Fit, Preprocessing, TransformersPreprocessing};
use serde::Serialize;

use crate::checkpoint::config::CheckpointConfig;
use crate::checkpoint::transformers;

/// Pillow's number of the bilinear filter.
const BILINEAR: u8 = 2;

/// The maximum value of a pixel.
const WHITE: f64 = 255.0;

/// The content of `preprocessor_config.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct PreprocessorConfig(Steps);

/// The steps of a class of transformers.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
enum Steps {
    PerceiverIo(PerceiverIoSteps),
    General(GeneralSteps),
}

/// The steps of a Perceiver IO.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct PerceiverIoSteps {
    image_processor_type: &'static str,
    #[serde(flatten)]
    steps: TransformersPreprocessing,
}

/// The steps of the image processor that fits.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "the file's own fields")]
struct GeneralSteps {
    /// The class of `transformers` that implements these steps.
    image_processor_type: &'static str,
    do_convert_rgb: bool,
    /// Whether the image is first padded to a square with the mean colour.
    #[serde(skip_serializing_if = "Option::is_none")]
    do_pad: Option<bool>,
    do_resize: bool,
    size: Size,
    resample: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    do_center_crop: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crop_size: Option<Sides>,
    do_rescale: bool,
    rescale_factor: f64,
    do_normalize: bool,
    /// Mean of each channel, for values 0 to 1.
    image_mean: Vec<f64>,
    /// Standard deviation of each channel, for values 0 to 1.
    image_std: Vec<f64>,
}

/// The size that an image is resized to.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
enum Size {
    Sides(Sides),
    Shortest { shortest_edge: usize },
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Sides {
    height: usize,
    width: usize,
}

impl PreprocessorConfig {
    /// Converts the preprocessing of a checkpoint to this format. That of a Perceiver IO goes to the
    /// image processor of its own, unless images are padded, which it does not do.
    pub fn new(config: &CheckpointConfig) -> Self {
        let preprocessing = &config.preprocessing;
        if config.model.perceiver_io().is_some() && preprocessing.fit != Fit::Pad {
            return Self(Steps::PerceiverIo(PerceiverIoSteps {
                image_processor_type: "PerceiverImageProcessor",
                steps: transformers::steps(preprocessing),
            }));
        }
        Self(Steps::General(GeneralSteps::new(preprocessing)))
    }
}

impl GeneralSteps {
    fn new(preprocessing: &Preprocessing) -> Self {
        let side = preprocessing.image_size;
        let sides = Sides {
            height: side,
            width: side,
        };
        let shortest = Size::Shortest {
            shortest_edge: side,
        };
        let (processor, do_pad, size, crop_size) = match preprocessing.fit {
            Fit::Stretch => ("ViTImageProcessor", None, Size::Sides(sides), None),
            Fit::Crop => ("CLIPImageProcessor", None, shortest, Some(sides)),
            Fit::Pad => ("LlavaImageProcessor", Some(true), shortest, None),
        };
        let normalization = &preprocessing.normalization;
        let mean = normalization.mean.iter().map(|&mean| f64::from(mean));
        let variance = normalization.variance.iter();
        let deviation = variance.map(|&variance| f64::from(variance).sqrt().max(1e-7));
        Self {
            image_processor_type: processor,
            do_convert_rgb: true,
            do_pad,
            do_resize: true,
            size,
            resample: BILINEAR,
            do_center_crop: (preprocessing.fit != Fit::Stretch).then_some(crop_size.is_some()),
            crop_size,
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

    fn json(fit: Fit) -> serde_json::Value {
        let preprocessing = Preprocessing {
            image_size: 32,
            antialias: true,
            fit,
            normalization: Normalization {
                mean: vec![100.0; 3],
                variance: vec![400.0; 3],
            },
            transformers: None,
        };
        serde_json::to_value(GeneralSteps::new(&preprocessing)).unwrap()
    }

    #[test]
    fn non_square_handling_maps_to_the_preprocessor_fields() {
        let sides = serde_json::json!({ "height": 32, "width": 32 });
        let shortest = serde_json::json!({ "shortest_edge": 32 });
        let stretched = json(Fit::Stretch);
        assert_eq!(stretched["size"], sides);
        assert_eq!(stretched["image_processor_type"], "ViTImageProcessor");
        assert!(stretched.get("do_center_crop").is_none() && stretched.get("do_pad").is_none());
        let cropped = json(Fit::Crop);
        assert_eq!(
            (&cropped["size"], &cropped["crop_size"]),
            (&shortest, &sides)
        );
        assert_eq!(cropped["do_center_crop"], true);
        let padded = json(Fit::Pad);
        assert_eq!(
            (&padded["size"], &padded["do_pad"]),
            (&shortest, &true.into())
        );
        assert_eq!(padded["do_center_crop"], false);
    }

    #[test]
    fn preprocessor_config_reproduces_the_input() {
        let preprocessing = Preprocessing {
            image_size: 1,
            antialias: false,
            fit: Fit::Stretch,
            normalization: Normalization {
                mean: vec![100.0, 120.0, 140.0],
                variance: vec![400.0, 900.0, 2500.0],
            },
            transformers: None,
        };
        let config = GeneralSteps::new(&preprocessing);
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
