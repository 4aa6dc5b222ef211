//! Preprocessing of Perceiver IO checkpoints, as their `preprocessor_config.json` describes it to
//! Hugging Face transformers.
//!
//! An image `[3, height, width]` of bytes is cropped ([`center_crop`]), resized
//! ([`pillow_resize`]), divided by 255 and normalized to `[3, size, size]` of f32. The steps and
//! their roundings are those of transformers' `PerceiverImageProcessorPil` (release 5.24), so the
//! values are equal. Its torchvision variant differs by one level in some bytes.
//!
//! This project's own [`Preprocessing`](crate::Preprocessing) normalizes before it resizes, unless
//! it was made [from these steps](crate::Preprocessing::from_transformers).
//!
//! ```
//! use perceiver_data::{Image, TransformersPreprocessing};
//!
//! let json = br#"{"crop_size": 256, "size": 224, "resample": 3, "image_mean": [0.5, 0.5, 0.5]}"#;
//! let preprocessing = TransformersPreprocessing::from_json(json)?;
//! let image = Image::new(30, 40, vec![128; 3 * 30 * 40])?;
//! let input = preprocessing.tensor(&[image])?;
//! assert_eq!(input.dims(), [1, 3, 224, 224]);
//! # Ok::<(), perceiver_data::DataError>(())
//! ```

pub(crate) mod config;
pub(crate) mod preprocessing;

use std::borrow::Cow;

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::dataset::image::{CHANNELS, Image};
use crate::error::{DataError, Result};
use crate::transforms::center_crop::{CropOffset, center_crop, cropped_side};
use crate::transforms::normalize::{Table, look_up};
use crate::transforms::pillow_resize::filter::PillowFilter;
use crate::transforms::pillow_resize::pillow_resize;
use crate::transforms::preprocess::MAX_IMAGE_SIZE;
use crate::transforms::transformers_preprocessing::config::Keys;

/// Preprocessing options, with the names and defaults of transformers' `PerceiverImageProcessor`.
///
/// The defaults are those of `deepmind/vision-perceiver-{learned,fourier,conv}`. Unknown keys of a
/// file are ignored, missing ones and `null` take the defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Keys")]
#[expect(clippy::struct_excessive_bools, reason = "the file's own fields")]
pub struct TransformersPreprocessing {
    /// Whether to crop the middle of the image before resizing.
    pub do_center_crop: bool,
    /// The divisor of the crop: a share of `size / crop_size` of the shorter side is kept.
    pub crop_size: Sides,
    /// The rounding of the crop's offset; no key of transformers.
    #[serde(skip_serializing_if = "CropOffset::is_floor")]
    pub crop_offset: CropOffset,
    /// Whether to resize to `size`; otherwise all images of a batch must have one size.
    pub do_resize: bool,
    /// Height and width of the model input.
    pub size: Sides,
    /// The filter of the resize.
    pub resample: PillowFilter,
    /// Whether to multiply pixel values by `rescale_factor`.
    pub do_rescale: bool,
    /// The factor that takes bytes to 0 to 1.
    pub rescale_factor: f64,
    /// Whether to subtract the mean and divide by the standard deviation.
    pub do_normalize: bool,
    /// Mean of each channel, of rescaled values.
    pub image_mean: [f64; CHANNELS],
    /// Standard deviation of each channel, of rescaled values.
    pub image_std: [f64; CHANNELS],
}

/// Height and width of an image in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sides {
    /// The number of rows.
    pub height: usize,
    /// The number of columns.
    pub width: usize,
}

impl Sides {
    /// Creates the sides of a square.
    pub const fn square(side: usize) -> Self {
        Self {
            height: side,
            width: side,
        }
    }

    fn of(image: &Image) -> Self {
        Self {
            height: image.height(),
            width: image.width(),
        }
    }

    /// Describes the sides in messages.
    fn in_words(self) -> String {
        format!("height {} and width {}", self.height, self.width)
    }
}

impl Default for TransformersPreprocessing {
    fn default() -> Self {
        Self {
            do_center_crop: true,
            crop_size: Sides::square(256),
            crop_offset: CropOffset::Floor,
            do_resize: true,
            size: Sides::square(224),
            resample: PillowFilter::Bicubic,
            do_rescale: true,
            rescale_factor: 1.0 / 255.0,
            do_normalize: true,
            image_mean: [0.485, 0.456, 0.406],
            image_std: [0.229, 0.224, 0.225],
        }
    }
}

impl TransformersPreprocessing {
    /// Returns an error that names the option if one is invalid.
    pub fn validate(&self) -> Result<()> {
        for (option, sides) in [("size", self.size), ("crop_size", self.crop_size)] {
            let both = [sides.height, sides.width];
            let valid = both.iter().all(|side| (1..=MAX_IMAGE_SIZE).contains(side));
            let expected = || format!("height and width of 1 to {MAX_IMAGE_SIZE} pixels");
            require(valid, option, expected, || sides.in_words())?;
        }
        // transformers pads with black here, which no checkpoint uses.
        let within =
            self.size.height <= self.crop_size.height && self.size.width <= self.crop_size.width;
        require(
            within || !self.do_center_crop,
            "crop_size",
            || format!("at least the size, {}", self.size.in_words()),
            || self.crop_size.in_words(),
        )?;
        let positive = |value: f64| (value as f32).is_finite() && value as f32 > 0.0;
        require(
            positive(self.rescale_factor),
            "rescale_factor",
            || "a positive number".to_owned(),
            || self.rescale_factor.to_string(),
        )?;
        require(
            self.image_mean
                .iter()
                .all(|mean| (*mean as f32).is_finite()),
            "image_mean",
            || format!("{CHANNELS} finite numbers"),
            || format!("{:?}", self.image_mean),
        )?;
        require(
            self.image_std.iter().all(|deviation| positive(*deviation)),
            "image_std",
            || format!("{CHANNELS} positive numbers"),
            || format!("{:?}", self.image_std),
        )
    }

    /// Returns the same steps for another size of the model input: the same share of an image is
    /// cropped.
    #[must_use]
    pub fn for_size(&self, side: usize) -> Self {
        let scaled = |crop: usize, size: usize| match size {
            0 => crop,
            size => (crop as f64 * side as f64 / size as f64).round() as usize,
        };
        let (crop, size) = (self.crop_size, self.size);
        if size == Sides::square(side) {
            return self.clone();
        }
        Self {
            size: Sides::square(side),
            crop_size: Sides {
                height: scaled(crop.height, size.height),
                width: scaled(crop.width, size.width),
            },
            ..self.clone()
        }
    }

    /// Preprocesses images in parallel to f32 `[n, 3, height, width]` on the CPU, where height and
    /// width are `size`.
    ///
    /// # Errors
    /// When an option is invalid, and without `do_resize` when the images differ in size.
    pub fn tensor(&self, images: &[Image]) -> Result<Tensor> {
        self.validate()?;
        let sides = match images.first() {
            Some(first) if !self.do_resize => self.cropped_sides(first),
            _ => self.size,
        };
        let table = self.table();
        let image_len = CHANNELS * sides.height * sides.width;
        let mut values = vec![0.0; images.len() * image_len];
        let outputs = values.par_chunks_exact_mut(image_len);
        images
            .par_iter()
            .zip(outputs)
            .try_for_each(|(image, output)| {
                let found = self.output_sides(image);
                require(
                    found == sides,
                    "do_resize",
                    || format!("true, or only images of {}", sides.in_words()),
                    || format!("false, and an image of {}", found.in_words()),
                )?;
                let resized = self.crop_and_resize(image)?;
                look_up(&table, &resized, output);
                Ok::<_, DataError>(())
            })?;
        let shape = (images.len(), CHANNELS, sides.height, sides.width);
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    /// Returns the image that the model sees, cropped and resized, before it is rescaled and
    /// normalized.
    ///
    /// # Errors
    /// As for [`TransformersPreprocessing::validate`].
    pub fn resized<'a>(&self, image: &'a Image) -> Result<Cow<'a, Image>> {
        self.validate()?;
        self.crop_and_resize(image)
    }

    /// Crops and resizes. The options must be valid.
    pub(crate) fn crop_and_resize<'a>(&self, image: &'a Image) -> Result<Cow<'a, Image>> {
        let cropped = self.cropped(image)?;
        if !self.do_resize {
            return Ok(cropped);
        }
        let Sides { height, width } = self.size;
        pillow_resize(&cropped, height, width, self.resample).map(Cow::Owned)
    }

    /// Crops. The options must be valid.
    pub(crate) fn cropped<'a>(&self, image: &'a Image) -> Result<Cow<'a, Image>> {
        if !self.do_center_crop {
            return Ok(Cow::Borrowed(image));
        }
        let Sides { height, width } = self.cropped_sides(image);
        center_crop(image, height, width, self.crop_offset).map(Cow::Owned)
    }

    /// Returns the sides of an image after the crop.
    fn cropped_sides(&self, image: &Image) -> Sides {
        if !self.do_center_crop {
            return Sides::of(image);
        }
        let shorter_side = image.height().min(image.width());
        Sides {
            height: cropped_side(self.size.height, self.crop_size.height, shorter_side),
            width: cropped_side(self.size.width, self.crop_size.width, shorter_side),
        }
    }

    /// Returns the sides of an image after the crop and the resize.
    fn output_sides(&self, image: &Image) -> Sides {
        if self.do_resize {
            self.size
        } else {
            self.cropped_sides(image)
        }
    }

    /// Returns the value of each byte in each channel, rounded to f32 where transformers does.
    pub(crate) fn table(&self) -> Table {
        let value = |byte: u8, channel: usize| {
            let mut value = f32::from(byte);
            if self.do_rescale {
                value = (f64::from(byte) * self.rescale_factor) as f32;
            }
            if self.do_normalize {
                value -= self.image_mean[channel] as f32;
                value /= self.image_std[channel] as f32;
            }
            value
        };
        std::array::from_fn(|channel| std::array::from_fn(|byte| value(byte as u8, channel)))
    }
}

/// Returns an error that names the option unless its value is valid.
fn require(
    valid: bool,
    option: &'static str,
    expected: impl FnOnce() -> String,
    found: impl FnOnce() -> String,
) -> Result<()> {
    if valid {
        return Ok(());
    }
    Err(DataError::InvalidOption {
        option,
        expected: expected(),
        found: found(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(height: usize, width: usize) -> Image {
        let bytes = (0..3 * height * width).map(|i| (i * 37 % 251) as u8);
        Image::new(height, width, bytes.collect()).unwrap()
    }

    /// Small sizes that crop a border of an eighth.
    fn small() -> TransformersPreprocessing {
        TransformersPreprocessing {
            size: Sides::square(7),
            crop_size: Sides::square(8),
            ..TransformersPreprocessing::default()
        }
    }

    #[test]
    fn a_crop_of_the_input_size_is_only_normalized() {
        let input = small().tensor(&[image(8, 10)]).unwrap();
        assert_eq!(input.dims(), [1, 3, 7, 7]);
        let input = input.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let image = image(8, 10);
        let (mean, deviation) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        for (at, value) in input.iter().enumerate() {
            let (channel, row, column) = (at / 49, at / 7 % 7, at % 7);
            let byte = image.pixels()[channel * 80 + row * 10 + column + 1];
            let expected = (f64::from(byte) / 255.0 - mean[channel]) / deviation[channel];
            assert!((f64::from(*value) - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn deepmind_crops_one_pixel_further() {
        let of = |crop_offset| {
            let preprocessing = TransformersPreprocessing {
                crop_offset,
                ..small()
            };
            preprocessing.resized(&image(8, 9)).unwrap().into_owned()
        };
        let (floor, ceil) = (of(CropOffset::Floor), of(CropOffset::Ceil));
        // Rows are cropped by one pixel of 8, columns by two of 9.
        assert_eq!(floor.pixels()[0], image(8, 9).pixels()[1]);
        assert_eq!(ceil.pixels()[0], image(8, 9).pixels()[9 + 1]);
    }

    #[test]
    fn every_step_can_be_left_out() {
        let preprocessing = TransformersPreprocessing {
            do_center_crop: false,
            do_resize: false,
            do_rescale: false,
            do_normalize: false,
            ..small()
        };
        let input = preprocessing.tensor(&[image(4, 6), image(4, 6)]).unwrap();
        assert_eq!(input.dims(), [2, 3, 4, 6]);
        let input = input.get(1).unwrap().flatten_all().unwrap();
        let bytes = image(4, 6)
            .pixels()
            .iter()
            .map(|byte| f32::from(*byte))
            .collect::<Vec<_>>();
        assert_eq!(input.to_vec1::<f32>().unwrap(), bytes);

        let message = preprocessing
            .tensor(&[image(4, 6), image(6, 4)])
            .unwrap_err();
        assert_eq!(
            message.to_string(),
            "do_resize: expected true, or only images of height 4 and width 6, \
             found false, and an image of height 6 and width 4"
        );
    }

    #[test]
    fn images_of_any_size_are_taken() {
        let images = [
            image(1, 1),
            image(1, 50),
            image(50, 1),
            image(3, 40),
            image(20, 20),
        ];
        let preprocessing = TransformersPreprocessing {
            size: Sides {
                height: 5,
                width: 6,
            },
            crop_size: Sides {
                height: 5,
                width: 8,
            },
            ..TransformersPreprocessing::default()
        };
        assert_eq!(preprocessing.tensor(&images).unwrap().dims(), [5, 3, 5, 6]);
        assert_eq!(preprocessing.tensor(&[]).unwrap().dims(), [0, 3, 5, 6]);
    }
}
