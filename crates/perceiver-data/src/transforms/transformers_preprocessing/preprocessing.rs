//! [`Preprocessing`] with the steps of transformers, for training and evaluation like any other.

use crate::dataset::image::CHANNELS;
use crate::error::Result;
use crate::transforms::fit::Fit;
use crate::transforms::normalize::Normalization;
use crate::transforms::preprocess::Preprocessing;
use crate::transforms::transformers_preprocessing::{TransformersPreprocessing, require};

impl Preprocessing {
    /// Creates preprocessing with the steps of transformers, whose values are those of
    /// [`TransformersPreprocessing::tensor`].
    ///
    /// `image_size` is their `size`. `normalization` is that of bytes, so that what shows images or
    /// pixel values works as usual.
    ///
    /// ```
    /// use perceiver_data::{Image, Preprocessing, TransformersPreprocessing};
    ///
    /// let preprocessing = Preprocessing::from_transformers(TransformersPreprocessing::default())?;
    /// assert_eq!(preprocessing.image_size, 224);
    /// assert_eq!(preprocessing.normalization.mean[0], 123.675); // 0.485 * 255
    /// let image = Image::new(64, 80, vec![7; 3 * 64 * 80])?;
    /// // 224/256 of the shorter side:
    /// assert_eq!(preprocessing.framed(&image)?.height(), 56);
    /// assert_eq!(preprocessing.tensor(&[image])?.dims(), [1, 3, 224, 224]);
    /// # Ok::<(), perceiver_data::DataError>(())
    /// ```
    ///
    /// # Errors
    /// When an option is invalid, when `size` is not a square, and without `do_resize`.
    pub fn from_transformers(steps: TransformersPreprocessing) -> Result<Self> {
        let preprocessing = Self {
            image_size: steps.square_size()?,
            antialias: true, // Pillow always does
            fit: if steps.do_center_crop {
                Fit::Crop
            } else {
                Fit::Stretch
            },
            normalization: steps.normalization(),
            transformers: Some(steps),
        };
        preprocessing.validate()?;
        Ok(preprocessing)
    }
}

impl TransformersPreprocessing {
    /// Returns the height and width of the model input.
    ///
    /// # Errors
    /// When an option is invalid, when height and width differ, and when images are not resized.
    fn square_size(&self) -> Result<usize> {
        self.validate()?;
        require(
            self.do_resize,
            "do_resize",
            || "true, since all images must have one size".to_owned(),
            || "false".to_owned(),
        )?;
        require(
            self.size.height == self.size.width,
            "size",
            || "the same height and width".to_owned(),
            || self.size.in_words(),
        )?;
        Ok(self.size.height)
    }

    /// Returns an error unless images are resized to `image_size`.
    pub(crate) fn require_size(&self, image_size: usize) -> Result<()> {
        let size = self.square_size()?;
        require(
            size == image_size,
            "image_size",
            || format!("{size}, the size that transformers' steps resize to"),
            || image_size.to_string(),
        )
    }

    /// Returns mean and variance of bytes for which [`Normalization`] computes the same values, up
    /// to rounding.
    fn normalization(&self) -> Normalization {
        let scale = if self.do_rescale {
            1.0 / self.rescale_factor
        } else {
            1.0
        };
        let (mean, deviation) = if self.do_normalize {
            (self.image_mean, self.image_std)
        } else {
            ([0.0; CHANNELS], [1.0; CHANNELS])
        };
        Normalization {
            mean: mean.map(|mean| (mean * scale) as f32).to_vec(),
            variance: deviation
                .map(|deviation| (deviation * scale).powi(2) as f32)
                .to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle_core::Tensor;
    use proptest::prelude::*;

    use super::*;
    use crate::dataset::Dataset;
    use crate::dataset::image::Image;
    use crate::loader::Loader;
    use crate::loader::config::LoaderConfig;
    use crate::transforms::augment::{Augmentation, Draw};
    use crate::transforms::mixup_cutmix::Mixing;
    use crate::transforms::pillow_resize::filter::PillowFilter;
    use crate::transforms::rand_augment::RandAugment;
    use crate::transforms::random_erasing::Erasing;
    use crate::transforms::transformers_preprocessing::Sides;

    fn image(height: usize, width: usize) -> Image {
        let bytes = (0..3 * height * width).map(|i| (i * i * 37 % 251) as u8);
        Image::new(height, width, bytes.collect()).unwrap()
    }

    fn images() -> Vec<Image> {
        let sizes = [(1, 1), (9, 30), (40, 17), (1, 50), (12, 12), (20, 20)];
        sizes.map(|(height, width)| image(height, width)).to_vec()
    }

    /// Crops a border of an eighth and resizes to 12 x 12.
    fn small() -> TransformersPreprocessing {
        TransformersPreprocessing {
            size: Sides::square(12),
            crop_size: Sides::square(16),
            ..TransformersPreprocessing::default()
        }
    }

    fn bits(tensor: &Tensor) -> Vec<u32> {
        let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn values_are_those_of_transformers() {
        let steps = [
            small(),
            TransformersPreprocessing {
                do_center_crop: false,
                resample: PillowFilter::Bilinear,
                ..small()
            },
            TransformersPreprocessing {
                do_rescale: false,
                do_normalize: false,
                ..small()
            },
        ];
        for steps in steps {
            let expected = bits(&steps.tensor(&images()).unwrap());
            let preprocessing = Preprocessing::from_transformers(steps).unwrap();
            assert_eq!(bits(&preprocessing.tensor(&images()).unwrap()), expected);
            let other_options = Preprocessing {
                fit: Fit::Pad,
                antialias: false,
                ..preprocessing.clone()
            };
            assert_eq!(bits(&other_options.tensor(&images()).unwrap()), expected);
            let mut one = vec![0.0; 3 * 12 * 12];
            preprocessing
                .apply(&images()[1], &Draw::NONE, &mut one)
                .unwrap();
            let one: Vec<u32> = one.into_iter().map(f32::to_bits).collect();
            assert_eq!(one, expected[one.len()..2 * one.len()]);
        }
    }

    #[test]
    fn the_normalization_is_that_of_bytes() {
        let half = TransformersPreprocessing {
            rescale_factor: 1.0 / 510.0,
            ..small()
        };
        let not_rescaled = TransformersPreprocessing {
            do_rescale: false,
            ..small()
        };
        let not_normalized = TransformersPreprocessing {
            do_normalize: false,
            ..small()
        };
        for steps in [small(), half, not_rescaled, not_normalized] {
            let expected = steps.table();
            let table = Preprocessing::from_transformers(steps)
                .unwrap()
                .normalization
                .table();
            for (value, expected) in table.iter().flatten().zip(expected.iter().flatten()) {
                let allowed = 1e-5 * expected.abs().max(1.0);
                assert!((value - expected).abs() < allowed, "{value} {expected}");
            }
        }
    }

    #[test]
    fn the_center_crop_is_framed() {
        let preprocessing = Preprocessing::from_transformers(small()).unwrap();
        let framed = preprocessing.framed(&image(16, 20)).unwrap().into_owned();
        assert_eq!((framed.height(), framed.width()), (12, 12));
        assert_eq!(framed.pixels()[0], image(16, 20).pixels()[2 * 20 + 4]);
        let whole = Preprocessing::from_transformers(TransformersPreprocessing {
            do_center_crop: false,
            ..small()
        });
        let (photo, whole) = (image(16, 20), whole.unwrap());
        assert_eq!(*whole.framed(&photo).unwrap(), photo);
    }

    /// The images that the steps have cropped and resized, as they are.
    fn resized() -> (Vec<Image>, Preprocessing) {
        let steps = small();
        let resized = images()
            .iter()
            .map(|image| steps.resized(image).unwrap().into_owned())
            .collect();
        let no_change = TransformersPreprocessing {
            do_center_crop: false,
            ..steps
        };
        (
            resized,
            Preprocessing::from_transformers(no_change).unwrap(),
        )
    }

    #[test]
    fn augmentation_acts_on_the_cropped_and_resized_image() {
        let everything = Augmentation {
            horizontal_flip: true,
            alternating_flip: false,
            zoom: 0.3,
            shift: 0.2,
            rand_augment: RandAugment {
                layers: 2,
                magnitude: 9.0,
            },
            erasing: Erasing { probability: 0.5 },
            mixing: Mixing {
                mixup: 0.4,
                cutmix: 1.0,
                ..Mixing::NONE
            },
        };
        let batches = |images: Vec<Image>, preprocessing: Preprocessing, augmentation| {
            let labels = vec![0; images.len()];
            let data = Dataset::new("test", images, labels, vec!["a".into()]).unwrap();
            let config = LoaderConfig {
                batch_size: 4,
                shuffle: true,
                augmentation,
                ..LoaderConfig::default()
            };
            let loader = Loader::new(Arc::new(data), preprocessing, config).unwrap();
            let batches = loader.epoch(0, 0).map(|batch| bits(&batch.unwrap().images));
            batches.collect::<Vec<_>>().concat()
        };
        let ours = Preprocessing::from_transformers(small()).unwrap();
        let (resized, as_they_are) = resized();
        let mut seen = Vec::new();
        for augmentation in [None, Some(everything)] {
            let augmented = batches(images(), ours.clone(), augmentation);
            let expected = batches(resized.clone(), as_they_are.clone(), augmentation);
            assert_eq!(augmented, expected);
            seen.push(augmented);
        }
        assert_ne!(seen[0], seen[1]);
    }

    proptest! {
        /// This project's own preprocessing of the cropped and resized bytes moves them alike.
        #[test]
        fn draws_move_the_image_as_without_transformers(
            flip: bool, height_zoom in 0.8_f32..1.2, width_zoom in 0.8_f32..1.2, down in -0.2_f32..0.2, at in 0_usize..6,
        ) {
            let draw = Draw { flip, height_zoom, width_zoom, down, ..Draw::NONE };
            let preprocessing = Preprocessing::from_transformers(small()).unwrap();
            let plain = Preprocessing { transformers: None, ..preprocessing.clone() };
            let [mut actual, mut expected] = [vec![0.0; 3 * 12 * 12], vec![0.0; 3 * 12 * 12]];
            preprocessing.apply(&images()[at], &draw, &mut actual).unwrap();
            plain.apply(&resized().0[at], &draw, &mut expected).unwrap();
            for (actual, expected) in actual.iter().zip(&expected) {
                prop_assert!((actual - expected).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn steps_that_do_not_make_the_input_are_rejected() {
        let not_resized = TransformersPreprocessing {
            do_resize: false,
            ..small()
        };
        let not_square = TransformersPreprocessing {
            size: Sides {
                height: 12,
                width: 11,
            },
            ..small()
        };
        let invalid = TransformersPreprocessing {
            image_std: [0.0; 3],
            ..small()
        };
        for (steps, message) in [
            (
                not_resized,
                "do_resize: expected true, since all images must have one size, found false",
            ),
            (
                not_square,
                "size: expected the same height and width, found height 12 and width 11",
            ),
            (invalid, "image_std: expected 3 positive numbers, found"),
        ] {
            let error = Preprocessing::from_transformers(steps).unwrap_err();
            assert!(error.to_string().starts_with(message), "{error}");
        }
        let other_size = Preprocessing {
            image_size: 13,
            ..Preprocessing::from_transformers(small()).unwrap()
        };
        for error in [
            other_size.validate().unwrap_err(),
            other_size.tensor(&images()).unwrap_err(),
            other_size.framed(&images()[0]).unwrap_err(),
        ] {
            assert_eq!(
                error.to_string(),
                "image_size: expected 12, the size that transformers' steps resize to, found 13"
            );
        }
    }

    #[test]
    fn json_and_toml_hold_the_steps() {
        let preprocessing = Preprocessing::from_transformers(TransformersPreprocessing {
            crop_offset: crate::transforms::center_crop::CropOffset::Ceil,
            ..TransformersPreprocessing::default()
        })
        .unwrap();
        let json = serde_json::to_string(&preprocessing).unwrap();
        let toml = toml::to_string(&preprocessing).unwrap();
        let from_json: Preprocessing = serde_json::from_str(&json).unwrap();
        let from_toml: Preprocessing = toml::from_str(&toml).unwrap();
        assert_eq!((&from_json, &from_toml), (&preprocessing, &preprocessing));

        let plain = Preprocessing {
            transformers: None,
            ..preprocessing
        };
        let toml = toml::to_string(&plain).unwrap();
        assert!(!toml.contains("transformers"), "{toml}");
        assert_eq!(toml::from_str::<Preprocessing>(&toml).unwrap(), plain);
    }

    #[test]
    fn recipes_may_name_a_few_keys() {
        let toml = "image_size = 64\nantialias = true\n\
            normalization = { mean = [0, 0, 0], variance = [1, 1, 1] }\n\
            [transformers]\nsize = 64\nimage_mean = 0.5\n";
        let read: Preprocessing = toml::from_str(toml).unwrap();
        let steps = read.transformers.unwrap();
        assert_eq!(
            (steps.size, steps.image_mean),
            (Sides::square(64), [0.5; 3])
        );
        let wrong = toml.replace("size = 64\nimage_mean", "size = 0\nimage_mean");
        let error = toml::from_str::<Preprocessing>(&wrong).unwrap_err();
        let expected = "size: expected height and width of 1 to 4096 pixels";
        assert!(error.to_string().contains(expected), "{error}");
    }
}
