//! From 8-bit pictures of any size to the model's input, in Keras's order: normalize, resize, flip, zoom.
//!
//! `[3, height, width]` of bytes becomes `[3, image_size, image_size]` of f32. The last three steps are one pair of
//! sparse matrices ([`Taps`]), and normalization a table of the 256 values a byte can have.
//!
//! ```
//! use perceiver_data::{Fit, Image, Normalization, Preprocessing};
//!
//! let preprocessing = Preprocessing {
//!     image_size: 2,
//!     antialias: false,
//!     fit: Fit::Stretch,
//!     normalization: Normalization { mean: vec![100.0; 3], variance: vec![4.0; 3] },
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

use crate::augment::Draw;
use crate::error::{DataError, Result};
use crate::fit::{Fit, Window};
use crate::image::{CHANNELS, Image};
use crate::normalization::{Normalization, Table};
use crate::resample::{Scratch, resample, resample_into};
use crate::taps::Taps;

/// The largest side of a model's input; a larger one is taken for a mistake.
const MAX_IMAGE_SIZE: usize = 4096;

/// How pictures become input; part of a checkpoint, so that prediction does what training did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Height and width of the input, in pixels.
    pub image_size: usize,
    /// Whether shrinking averages over the pixels it drops. Keras's `Resizing` does not, by default.
    pub antialias: bool,
    /// What becomes of images that are no squares; stretched where a checkpoint does not say.
    #[serde(default)]
    pub fit: Fit,
    /// Mean and variance of the training pictures.
    pub normalization: Normalization,
}

impl Preprocessing {
    /// Refuses an image size of 0 or above 4096, and a normalization that fits no picture.
    pub fn validate(&self) -> Result<()> {
        if !(1..=MAX_IMAGE_SIZE).contains(&self.image_size) {
            return Err(DataError::InvalidOption {
                option: "image_size",
                expected: format!("1 to {MAX_IMAGE_SIZE} pixels"),
                found: self.image_size.to_string(),
            });
        }
        self.normalization.validate()
    }

    /// Writes a picture, changed as `draw` says, to `out`, `[3, image_size, image_size]`.
    ///
    /// # Errors
    /// When the options are not valid, or `out` has another size.
    pub fn apply(&self, image: &Image, draw: &Draw, out: &mut [f32]) -> Result<()> {
        let prepared = self.prepare([image])?;
        if out.len() != prepared.output_len() {
            return Err(DataError::WrongPixelCount {
                what: format!("input of size {}", self.image_size),
                expected: prepared.output_len(),
                found: out.len(),
            });
        }
        prepared.apply(image, draw, &mut Scratch::default(), out);
        Ok(())
    }

    /// Pictures as a batch for evaluation, unchanged but for size and scale: f32 `[n, 3, image_size, image_size]`
    /// on the CPU.
    pub fn tensor(&self, images: &[Image]) -> Result<Tensor> {
        let prepared = self.prepare(images)?;
        prepared.batch(images.par_iter().map(|image| (image, Draw::NONE)))
    }

    /// The part of an image that the model sees, to be shown to people: the image itself where it is stretched, else the square
    /// that it is cropped or padded to, which has the mean colour around the image.
    ///
    /// # Errors
    /// As for [`Preprocessing::validate`].
    pub fn framed<'a>(&self, image: &'a Image) -> Result<Cow<'a, Image>> {
        self.validate()?;
        if self.fit == Fit::Stretch || image.height() == image.width() {
            return Ok(Cow::Borrowed(image));
        }
        let windows = self.windows(image.height(), image.width());
        let size = windows[0].len.min(MAX_FRAMED_SIZE);
        let [rows, columns] = windows.map(|window| Taps::resize_window(window, size, true));
        let planes = image.pixels().chunks_exact(image.height() * image.width());
        let mut pixels = Vec::with_capacity(CHANNELS * size * size);
        for (plane, mean) in planes.zip(&self.normalization.mean) {
            let plane: Vec<f32> = plane.iter().map(|value| f32::from(*value) - mean).collect();
            let framed = resample(&plane, &rows, &columns);
            pixels.extend(framed.iter().map(|value| (value + mean).round() as u8));
        }
        Image::new(size, size, pixels).map(Cow::Owned)
    }

    /// What is resized of the two axes.
    fn windows(&self, height: usize, width: usize) -> [Window; 2] {
        [
            self.fit.window(height, width),
            self.fit.window(width, height),
        ]
    }

    /// Everything that pictures of the sizes of `images` have in common.
    pub(crate) fn prepare<'a>(
        &self,
        images: impl IntoIterator<Item = &'a Image>,
    ) -> Result<Prepared> {
        self.validate()?;
        let mut resize = HashMap::new();
        for window in images
            .into_iter()
            .flat_map(|image| self.windows(image.height(), image.width()))
        {
            resize
                .entry(window)
                .or_insert_with(|| Taps::resize_window(window, self.image_size, self.antialias));
        }
        Ok(Prepared {
            image_size: self.image_size,
            antialias: self.antialias,
            fit: self.fit,
            table: self.normalization.table(),
            resize,
        })
    }
}

/// The largest side of an image that [`Preprocessing::framed`] makes.
const MAX_FRAMED_SIZE: usize = 1024;

/// Valid [`Preprocessing`] with its tables at hand.
pub(crate) struct Prepared {
    image_size: usize,
    antialias: bool,
    fit: Fit,
    table: Table,
    /// From each part of an axis to `image_size`.
    resize: HashMap<Window, Taps>,
}

impl Prepared {
    /// The number of values a picture becomes.
    pub(crate) fn output_len(&self) -> usize {
        CHANNELS * self.image_size * self.image_size
    }

    /// Preprocesses pictures in parallel: `[n, 3, image_size, image_size]`.
    pub(crate) fn batch<'a>(
        &self,
        images: impl IndexedParallelIterator<Item = (&'a Image, Draw)>,
    ) -> Result<Tensor> {
        self.tensor(images, |scratch, (image, draw), out| {
            self.apply(image, &draw, scratch, out);
        })
    }

    /// What `write` makes of items in parallel: `[n, 3, image_size, image_size]`.
    pub(crate) fn tensor<T: Send>(
        &self,
        items: impl IndexedParallelIterator<Item = T>,
        write: impl Fn(&mut Scratch, T, &mut [f32]) + Send + Sync,
    ) -> Result<Tensor> {
        let shape = (items.len(), CHANNELS, self.image_size, self.image_size);
        let mut values = vec![0.0; items.len() * self.output_len()];
        items
            .zip(values.par_chunks_exact_mut(self.output_len()))
            .for_each_init(Scratch::default, |scratch, (item, out)| {
                write(scratch, item, out);
            });
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    /// Height and width of the input.
    pub(crate) fn image_size(&self) -> usize {
        self.image_size
    }

    /// One picture into `out`, `[3, image_size, image_size]`.
    pub(crate) fn apply(&self, image: &Image, draw: &Draw, scratch: &mut Scratch, out: &mut [f32]) {
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

    /// Resize, then flip, then zoom, then shift, along each axis.
    fn taps(&self, height: usize, width: usize, draw: &Draw) -> (Cow<'_, Taps>, Cow<'_, Taps>) {
        let rows = self.resize(self.fit.window(height, width));
        let columns = self.resize(self.fit.window(width, height));
        if *draw == Draw::NONE {
            return (rows, columns);
        }
        let size = self.image_size;
        let columns = if draw.flip {
            Cow::Owned(Taps::flip(size).compose(&columns))
        } else {
            columns
        };
        let move_and_zoom = |zoom, by: f32, taps: &Taps| {
            let zoomed = Taps::zoom(size, zoom).compose(taps);
            match (by * size as f32).round() as isize {
                0 => zoomed,
                places => Taps::shift(size, places).compose(&zoomed),
            }
        };
        (
            Cow::Owned(move_and_zoom(draw.height_zoom, draw.down, &rows)),
            Cow::Owned(move_and_zoom(draw.width_zoom, draw.right, &columns)),
        )
    }

    fn resize(&self, window: Window) -> Cow<'_, Taps> {
        self.resize.get(&window).map_or_else(
            || Cow::Owned(Taps::resize_window(window, self.image_size, self.antialias)),
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
        }
    }

    fn picture(height: usize, width: usize) -> Image {
        let pixels = (0..3 * height * width)
            .map(|i| (i * 37 % 251) as u8)
            .collect();
        Image::new(height, width, pixels).unwrap()
    }

    #[test]
    fn wrong_options_are_refused() {
        for size in [0, MAX_IMAGE_SIZE + 1, usize::MAX] {
            let message = preprocessing(size)
                .tensor(&[picture(2, 2)])
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
                .apply(&picture(2, 2), &Draw::NONE, &mut [0.0; 48])
                .is_err()
        );
        let short = preprocessing(4).apply(&picture(2, 2), &Draw::NONE, &mut [0.0; 47]);
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
    fn no_pictures_make_an_empty_batch() {
        assert_eq!(preprocessing(8).tensor(&[]).unwrap().dims(), [0, 3, 8, 8]);
    }

    /// The image with `fit` done to its pixels.
    fn fitted(image: &Image, fit: Fit, empty: [u8; 3]) -> Image {
        let (height, width) = (image.height(), image.width());
        let side = match fit {
            Fit::Stretch => return image.clone(),
            Fit::Crop => height.min(width),
            Fit::Pad => height.max(width),
        };
        let place = |at: usize, axis: usize| {
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
                let there = place(row, height).zip(place(column, width));
                pixels.push(there.map_or(empty, |(row, column)| {
                    image.pixels()[(channel * height + row) * width + column]
                }));
            }
        }
        Image::new(side, side, pixels).unwrap()
    }

    /// 4 x 8 pixels, black and white columns in turns, cropped to the middle four.
    #[test]
    fn cropped_and_padded_images_keep_their_shape() {
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
        // Above and below a padded image there is the mean colour, which is 0.
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
    fn a_very_long_image_is_framed_in_little_memory() {
        let preprocessing = Preprocessing {
            fit: Fit::Pad,
            ..preprocessing(4)
        };
        let framed = preprocessing
            .framed(&picture(1, 60_000))
            .unwrap()
            .into_owned();
        assert_eq!((framed.height(), framed.width()), (1024, 1024));
    }

    #[test]
    fn a_checkpoint_that_does_not_say_stretches() {
        let json = r#"{"image_size": 4, "antialias": true, "normalization": {"mean": [0, 0, 0], "variance": [1, 1, 1]}}"#;
        let preprocessing: Preprocessing = serde_json::from_str(json).unwrap();
        assert_eq!(preprocessing.fit, Fit::Stretch);
    }

    proptest! {
        #[test]
        fn fitting_is_done_to_pixels_before_anything_else(
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
            let image = picture(height, width);
            let draw = Draw { flip, height_zoom, ..Draw::NONE };
            let made = |fit, image: &Image| {
                let normalization = normalization.clone();
                let preprocessing = Preprocessing { image_size: size, antialias, fit, normalization };
                let mut out = vec![0.0; 3 * size * size];
                preprocessing.apply(image, &draw, &mut out).unwrap();
                out
            };
            let expected = made(Fit::Stretch, &fitted(&image, fit, empty));
            for (found, expected) in made(fit, &image).iter().zip(&expected) {
                prop_assert!((found - expected).abs() < 1e-5);
            }
        }

        #[test]
        fn all_at_once_is_step_by_step(
            height in 1_usize..20,
            width in 1_usize..20,
            size in 1_usize..20,
            flip: bool,
            height_zoom in 0.8_f32..1.2,
            width_zoom in 0.8_f32..1.2,
        ) {
            let preprocessing = preprocessing(size);
            let image = picture(height, width);
            let draw = Draw { flip, height_zoom, width_zoom, ..Draw::NONE };
            let mut out = vec![0.0; 3 * size * size];
            preprocessing.apply(&image, &draw, &mut out).unwrap();

            let Normalization { mean, variance } = &preprocessing.normalization;
            let (same, turned) = (Taps::resize(size, size, false), Taps::flip(size));
            let mut expected = Vec::new();
            for (channel, plane) in image.pixels().chunks(height * width).enumerate() {
                let normalized: Vec<f32> = plane
                    .iter()
                    .map(|&v| (f32::from(v) - mean[channel]) / variance[channel].sqrt())
                    .collect();
                let [rows, columns] = [height, width].map(|len| Taps::resize(len, size, true));
                let resized = resample(&normalized, &rows, &columns);
                let flipped = resample(&resized, &same, if flip { &turned } else { &same });
                let [rows, columns] = [height_zoom, width_zoom].map(|zoom| Taps::zoom(size, zoom));
                expected.extend(resample(&flipped, &rows, &columns));
            }
            for (found, expected) in out.iter().zip(&expected) {
                prop_assert!((found - expected).abs() < 1e-5);
            }
        }
    }
}
