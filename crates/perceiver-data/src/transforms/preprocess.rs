//! Preprocessing, from 8-bit images of any size to model input, in Keras's order: normalize,
//! resize, flip, zoom.
//!
//! `[3, height, width]` of bytes becomes `[3, image_size, image_size]` of f32. The last three steps
//! are one pair of sparse matrices ([`Interpolation`]), and normalization is a table of the 256
//! values of a byte.
//!
//! A checkpoint of transformers has its images cropped and resized to bytes before they are
//! normalized; [`Preprocessing::from_transformers`] does the same.
//!
//! ```
//! use perceiver_data::{Fit, Image, Normalization, Preprocessing};
//!
//! let preprocessing = Preprocessing {
//!     image_size: 2,
//!     antialias: false,
//!     fit: Fit::Stretch,
//!     normalization: Normalization { mean: vec![100.0; 3], variance: vec![4.0; 3] },
//!     transformers: None,
//! };
//! let pixel = Image::new(1, 1, vec![100, 102, 98])?;
//! let input = preprocessing.tensor(&[pixel])?; // [1, 3, 2, 2]
//! assert_eq!(input.get(0)?.flatten_from(1)?.to_vec2::<f32>()?, [[0.0; 4], [1.0; 4], [-1.0; 4]]);
//! # Ok::<(), perceiver_data::DataError>(())
//! ```

use std::borrow::Cow;
use std::collections::HashMap;

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::dataset::image::{CHANNELS, Image};
use crate::error::{DataError, Result};
use crate::transforms::augment::Draw;
use crate::transforms::fit::{Fit, Window};
use crate::transforms::interpolation::Interpolation;
use crate::transforms::normalize::{Normalization, Table, look_up};
use crate::transforms::resample::{Scratch, resample, resample_into};
use crate::transforms::transformers_preprocessing::TransformersPreprocessing;

/// The largest image size; a larger one is taken for a mistake.
pub(crate) const MAX_IMAGE_SIZE: usize = 4096;

/// Options of preprocessing, stored in the checkpoint so that prediction matches training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Height and width of the model input, in pixels.
    pub image_size: usize,
    /// Whether to anti-alias when downscaling. Keras's `Resizing` does not, by default.
    pub antialias: bool,
    /// The way non-square images are fitted; stretched if a checkpoint does not say.
    #[serde(default)]
    pub fit: Fit,
    /// Mean and variance of the training images.
    pub normalization: Normalization,
    /// The steps of a checkpoint of Hugging Face transformers. None by default.
    ///
    /// If set, an image is first center-cropped and resized to bytes by Pillow's arithmetic, as a
    /// `preprocessor_config.json` says, and then normalized by its mean and standard deviation, so
    /// that the values are those of transformers. `antialias`, `fit` and `normalization` then have
    /// no effect. Augmentation (RandAugment, flip, zoom, shift, erasing, mixing) acts on the cropped
    /// and resized image of `image_size` x `image_size` pixels.
    ///
    /// [`Preprocessing::from_transformers`] sets all fields to agree with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transformers: Option<TransformersPreprocessing>,
}

impl Preprocessing {
    /// Returns an error for an image size of 0 or above 4096, for an invalid normalization, and for
    /// steps of transformers that do not resize to `image_size`.
    pub fn validate(&self) -> Result<()> {
        if !(1..=MAX_IMAGE_SIZE).contains(&self.image_size) {
            return Err(DataError::InvalidOption {
                option: "image_size",
                expected: format!("1 to {MAX_IMAGE_SIZE} pixels"),
                found: self.image_size.to_string(),
            });
        }
        self.normalization.validate()?;
        self.transformers
            .as_ref()
            .map_or(Ok(()), |steps| steps.require_size(self.image_size))
    }

    /// Preprocesses an image with augmentation `draw` into `out`, `[3, image_size, image_size]`.
    ///
    /// # Errors
    /// When the options are invalid, or `out` has another size.
    pub fn apply(&self, image: &Image, draw: &Draw, out: &mut [f32]) -> Result<()> {
        let prepared = self.prepare([image])?;
        if out.len() != prepared.output_len() {
            return Err(DataError::WrongPixelCount {
                what: format!("input of size {}", self.image_size),
                expected: prepared.output_len(),
                found: out.len(),
            });
        }
        prepared.preprocess(image, draw, &mut Scratch::default(), out)
    }

    /// Preprocesses images for evaluation, without augmentation, to f32
    /// `[n, 3, image_size, image_size]` on the CPU.
    pub fn tensor(&self, images: &[Image]) -> Result<Tensor> {
        let prepared = self.prepare(images)?;
        prepared.batch(images.par_iter().map(|image| (image, Draw::NONE)))
    }

    /// Returns the part of an image that the model sees, for display: the image itself if it is
    /// stretched, otherwise the square that it is cropped or padded to, with the mean colour around
    /// the image. With steps of transformers it is their center crop, before the resize.
    ///
    /// # Errors
    /// As for [`Preprocessing::validate`].
    pub fn framed<'a>(&self, image: &'a Image) -> Result<Cow<'a, Image>> {
        self.validate()?;
        if let Some(steps) = &self.transformers {
            return steps.cropped(image);
        }
        if self.fit == Fit::Stretch || image.height() == image.width() {
            return Ok(Cow::Borrowed(image));
        }
        let windows = self.windows(image.height(), image.width());
        let size = windows[0].len.min(MAX_FRAMED_SIZE);
        let [rows, columns] =
            windows.map(|window| Interpolation::resize_window(window, size, true));
        let planes = image.pixels().chunks_exact(image.height() * image.width());
        let mut pixels = Vec::with_capacity(CHANNELS * size * size);
        for (plane, mean) in planes.zip(&self.normalization.mean) {
            let plane: Vec<f32> = plane.iter().map(|value| f32::from(*value) - mean).collect();
            let framed = resample(&plane, &rows, &columns);
            pixels.extend(framed.iter().map(|value| (value + mean).round() as u8));
        }
        Image::new(size, size, pixels).map(Cow::Owned)
    }

    /// Returns the windows of the two axes that are resized.
    fn windows(&self, height: usize, width: usize) -> [Window; 2] {
        [
            self.fit.window(height, width),
            self.fit.window(width, height),
        ]
    }

    /// Precomputes the tables for images of these sizes.
    pub(crate) fn prepare<'a>(
        &self,
        images: impl IntoIterator<Item = &'a Image>,
    ) -> Result<Prepared> {
        self.validate()?;
        let mut resize = HashMap::new();
        // transformers' steps resize by themselves; augmentation then acts on the square.
        let sizes = images.into_iter().map(|image| match self.transformers {
            None => [image.height(), image.width()],
            Some(_) => [self.image_size; 2],
        });
        for window in sizes.flat_map(|[height, width]| self.windows(height, width)) {
            resize.entry(window).or_insert_with(|| {
                Interpolation::resize_window(window, self.image_size, self.antialias)
            });
        }
        Ok(Prepared {
            image_size: self.image_size,
            antialias: self.antialias,
            fit: self.fit,
            table: match &self.transformers {
                None => self.normalization.table(),
                Some(steps) => steps.table(),
            },
            resize,
            transformers: self.transformers.clone(),
        })
    }
}

/// The largest side of the result of [`Preprocessing::framed`].
const MAX_FRAMED_SIZE: usize = 1024;

/// Valid [`Preprocessing`] with precomputed tables.
pub(crate) struct Prepared {
    image_size: usize,
    antialias: bool,
    fit: Fit,
    table: Table,
    /// The matrix that resizes each window to `image_size`.
    resize: HashMap<Window, Interpolation>,
    transformers: Option<TransformersPreprocessing>,
}

impl Prepared {
    /// Returns the number of values of a preprocessed image.
    pub(crate) fn output_len(&self) -> usize {
        CHANNELS * self.image_size * self.image_size
    }

    /// Preprocesses images in parallel to `[n, 3, image_size, image_size]`.
    pub(crate) fn batch<'a>(
        &self,
        images: impl IndexedParallelIterator<Item = (&'a Image, Draw)>,
    ) -> Result<Tensor> {
        self.tensor(images, |scratch, (image, draw), out| {
            self.preprocess(image, &draw, scratch, out)
        })
    }

    /// Builds a tensor `[n, 3, image_size, image_size]` by writing items in parallel.
    pub(crate) fn tensor<T: Send>(
        &self,
        items: impl IndexedParallelIterator<Item = T>,
        write: impl Fn(&mut Scratch, T, &mut [f32]) -> Result<()> + Send + Sync,
    ) -> Result<Tensor> {
        let shape = (items.len(), CHANNELS, self.image_size, self.image_size);
        let mut values = vec![0.0; items.len() * self.output_len()];
        items
            .zip(values.par_chunks_exact_mut(self.output_len()))
            .try_for_each_init(Scratch::default, |scratch, (item, out)| {
                write(scratch, item, out)
            })?;
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    /// Returns height and width of the input.
    pub(crate) fn image_size(&self) -> usize {
        self.image_size
    }

    /// Preprocesses one image into `out`, `[3, image_size, image_size]`.
    fn preprocess(
        &self,
        image: &Image,
        draw: &Draw,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) -> Result<()> {
        let image = self.cropped_and_resized(image)?;
        self.write(&image, draw, scratch, out);
        Ok(())
    }

    /// Returns the image that augmentation acts on: `[3, image_size, image_size]` with steps of
    /// transformers, and otherwise the image itself, which [`Prepared::write`] resizes.
    pub(crate) fn cropped_and_resized<'a>(&self, image: &'a Image) -> Result<Cow<'a, Image>> {
        self.transformers
            .as_ref()
            .map_or(Ok(Cow::Borrowed(image)), |steps| {
                steps.crop_and_resize(image)
            })
    }

    /// Normalizes and augments an image of [`Prepared::cropped_and_resized`] into `out`,
    /// `[3, image_size, image_size]`.
    pub(crate) fn write(&self, image: &Image, draw: &Draw, scratch: &mut Scratch, out: &mut [f32]) {
        if self.transformers.is_some() && *draw == Draw::NONE {
            look_up(&self.table, image, out);
        } else {
            self.apply(image, draw, scratch, out);
        }
    }

    /// Resamples the normalized values of an image into `out`.
    fn apply(&self, image: &Image, draw: &Draw, scratch: &mut Scratch, out: &mut [f32]) {
        let (height, width) = (image.height(), image.width());
        let (rows, columns) = self.taps(height, width, draw);
        let planes = image.pixels().chunks_exact(height * width);
        let outputs = out.chunks_exact_mut(self.image_size * self.image_size);
        for ((plane, out), table) in planes.zip(outputs).zip(&self.table) {
            let read = |row: usize, into: &mut [f32]| {
                for (value, byte) in into.iter_mut().zip(&plane[row * width..]) {
                    *value = table[usize::from(*byte)];
                }
            };
            resample_into(&rows, &columns, read, scratch, out);
        }
    }

    /// Returns the matrices of both axes: resize, then flip, then zoom, then shift.
    fn taps(
        &self,
        height: usize,
        width: usize,
        draw: &Draw,
    ) -> (Cow<'_, Interpolation>, Cow<'_, Interpolation>) {
        let rows = self.resize(self.fit.window(height, width));
        let columns = self.resize(self.fit.window(width, height));
        if *draw == Draw::NONE {
            return (rows, columns);
        }
        let size = self.image_size;
        let columns = if draw.flip {
            Cow::Owned(Interpolation::flip(size).compose(&columns))
        } else {
            columns
        };
        let move_and_zoom = |zoom, by: f32, taps: &Interpolation| {
            let zoomed = Interpolation::zoom(size, zoom).compose(taps);
            match (by * size as f32).round() as isize {
                0 => zoomed,
                pixels => Interpolation::shift(size, pixels).compose(&zoomed),
            }
        };
        (
            Cow::Owned(move_and_zoom(draw.height_zoom, draw.down, &rows)),
            Cow::Owned(move_and_zoom(draw.width_zoom, draw.right, &columns)),
        )
    }

    fn resize(&self, window: Window) -> Cow<'_, Interpolation> {
        self.resize.get(&window).map_or_else(
            || {
                Cow::Owned(Interpolation::resize_window(
                    window,
                    self.image_size,
                    self.antialias,
                ))
            },
            Cow::Borrowed,
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn preprocessing(image_size: usize) -> Preprocessing {
        Preprocessing {
            image_size,
            antialias: true,
            fit: Fit::Stretch,
            normalization: Normalization {
                mean: vec![120.0, 125.0, 130.0],
                variance: vec![4000.0, 4100.0, 4200.0],
            },
            transformers: None,
        }
    }

    fn test_image(height: usize, width: usize) -> Image {
        let pixels = (0..3 * height * width)
            .map(|i| (i * 37 % 251) as u8)
            .collect();
        Image::new(height, width, pixels).unwrap()
    }

    #[test]
    fn invalid_options_are_rejected() {
        for size in [0, MAX_IMAGE_SIZE + 1, usize::MAX] {
            let message = preprocessing(size)
                .tensor(&[test_image(2, 2)])
                .unwrap_err()
                .to_string();
            assert!(
                message.contains("image_size: expected 1 to 4096"),
                "{message}"
            );
        }
        let mut wrong = preprocessing(4);
        wrong.normalization.mean.pop();
        assert!(
            wrong
                .apply(&test_image(2, 2), &Draw::NONE, &mut [0.0; 48])
                .is_err()
        );
        let short = preprocessing(4).apply(&test_image(2, 2), &Draw::NONE, &mut [0.0; 47]);
        assert!(matches!(
            short,
            Err(DataError::WrongPixelCount {
                expected: 48,
                found: 47,
                ..
            })
        ));
    }

    #[test]
    fn no_images_make_an_empty_batch() {
        assert_eq!(preprocessing(8).tensor(&[]).unwrap().dims(), [0, 3, 8, 8]);
    }

    /// Applies `fit` to the pixels of an image.
    fn fitted(image: &Image, fit: Fit, empty: [u8; 3]) -> Image {
        let (height, width) = (image.height(), image.width());
        let side = match fit {
            Fit::Stretch => return image.clone(),
            Fit::Crop => height.min(width),
            Fit::Pad => height.max(width),
        };
        let source_index = |at: usize, axis: usize| {
            let at = if side > axis {
                at.checked_sub((side - axis) / 2)
            } else {
                Some(at + (axis - side) / 2)
            };
            at.filter(|at| *at < axis)
        };
        let mut pixels = Vec::new();
        for (channel, empty) in empty.into_iter().enumerate() {
            for (row, column) in (0..side).flat_map(|row| (0..side).map(move |at| (row, at))) {
                let there = source_index(row, height).zip(source_index(column, width));
                pixels.push(there.map_or(empty, |(row, column)| {
                    image.pixels()[(channel * height + row) * width + column]
                }));
            }
        }
        Image::new(side, side, pixels).unwrap()
    }

    /// 4 x 8 pixels with alternating black and white columns, cropped to the middle four.
    #[test]
    fn cropped_and_padded_images_keep_their_aspect_ratio() {
        let stripes = |row: usize| {
            (0..8_usize).map(move |at| if (row + at).is_multiple_of(2) { 0 } else { 255 })
        };
        let pixels = (0..12).flat_map(stripes).collect();
        let image = Image::new(4, 8, pixels).unwrap();
        let preprocessing = |fit| Preprocessing {
            fit,
            antialias: false,
            ..preprocessing(4)
        };
        let cropped = preprocessing(Fit::Crop)
            .framed(&image)
            .unwrap()
            .into_owned();
        assert_eq!(cropped, fitted(&image, Fit::Crop, [0; 3]));
        let padded = preprocessing(Fit::Pad).framed(&image).unwrap().into_owned();
        assert_eq!(padded, fitted(&image, Fit::Pad, [120, 125, 130]));
        let stretched = preprocessing(Fit::Stretch);
        assert_eq!(*stretched.framed(&image).unwrap(), image);
        // Above and below a padded image is the mean colour, which is 0.
        let input = preprocessing(Fit::Pad).tensor(&[image]).unwrap();
        let rows = input
            .get(0)
            .unwrap()
            .get(0)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        assert!(
            rows[0].iter().chain(&rows[3]).all(|value| *value == 0.0),
            "{rows:?}"
        );
        assert!(
            rows[1].iter().chain(&rows[2]).any(|value| *value != 0.0),
            "{rows:?}"
        );
    }

    #[test]
    fn a_very_long_image_is_framed_with_little_memory() {
        let preprocessing = Preprocessing {
            fit: Fit::Pad,
            ..preprocessing(4)
        };
        let framed = preprocessing
            .framed(&test_image(1, 60_000))
            .unwrap()
            .into_owned();
        assert_eq!((framed.height(), framed.width()), (1024, 1024));
    }

    #[test]
    fn the_default_fit_is_stretch() {
        let json = r#"{"image_size": 4, "antialias": true, "normalization": {"mean": [0, 0, 0], "variance": [1, 1, 1]}}"#;
        let preprocessing: Preprocessing = serde_json::from_str(json).unwrap();
        assert_eq!(preprocessing.fit, Fit::Stretch);
    }

    proptest! {
        #[test]
        fn fit_is_applied_before_all_other_transforms(
            height in 1_usize..20,
            width in 1_usize..20,
            size in 1_usize..20,
            antialias: bool,
            fit in prop::sample::select(vec![Fit::Stretch, Fit::Crop, Fit::Pad]),
            flip: bool,
            height_zoom in 0.8_f32..1.2,
        ) {
            let normalization = preprocessing(1).normalization;
            let empty = [0, 1, 2].map(|channel| normalization.mean[channel] as u8);
            let image = test_image(height, width);
            let draw = Draw { flip, height_zoom, ..Draw::NONE };
            let made = |fit, image: &Image| {
                let normalization = normalization.clone();
                let preprocessing = Preprocessing { image_size: size, antialias, fit, normalization, transformers: None };
                let mut out = vec![0.0; 3 * size * size];
                preprocessing.apply(image, &draw, &mut out).unwrap();
                out
            };
            let expected = made(Fit::Stretch, &fitted(&image, fit, empty));
            for (actual, expected) in made(fit, &image).iter().zip(&expected) {
                prop_assert!((actual - expected).abs() < 1e-5);
            }
        }

        #[test]
        fn composed_transforms_equal_sequential_ones(
            height in 1_usize..20,
            width in 1_usize..20,
            size in 1_usize..20,
            flip: bool,
            height_zoom in 0.8_f32..1.2,
            width_zoom in 0.8_f32..1.2,
        ) {
            let preprocessing = preprocessing(size);
            let image = test_image(height, width);
            let draw = Draw { flip, height_zoom, width_zoom, ..Draw::NONE };
            let mut out = vec![0.0; 3 * size * size];
            preprocessing.apply(&image, &draw, &mut out).unwrap();

            let Normalization { mean, variance } = &preprocessing.normalization;
            let (same, turned) = (Interpolation::resize(size, size, false), Interpolation::flip(size));
            let mut expected = Vec::new();
            for (channel, plane) in image.pixels().chunks(height * width).enumerate() {
                let normalized: Vec<f32> = plane
                    .iter()
                    .map(|&v| (f32::from(v) - mean[channel]) / variance[channel].sqrt())
                    .collect();
                let [rows, columns] = [height, width].map(|len| Interpolation::resize(len, size, true));
                let resized = resample(&normalized, &rows, &columns);
                let flipped = resample(&resized, &same, if flip { &turned } else { &same });
                let [rows, columns] = [height_zoom, width_zoom].map(|zoom| Interpolation::zoom(size, zoom));
                expected.extend(resample(&flipped, &rows, &columns));
            }
            for (actual, expected) in out.iter().zip(&expected) {
                prop_assert!((actual - expected).abs() < 1e-5);
            }
        }
    }
}
