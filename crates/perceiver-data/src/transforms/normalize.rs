//! Per-channel standardization, Keras's `Normalization`: `(x - mean) / max(sqrt(variance), 1e-7)`.
//!
//! Mean and variance are computed once, from the training images with pixel values 0 to 255, and
//! stored in the checkpoint.
//!
//! ```
//! use perceiver_data::{Dataset, Image, Normalization};
//!
//! let image = Image::new(1, 2, vec![0, 2, 10, 10, 5, 15])?;
//! let data = Dataset::new("two pixels", vec![image], vec![0], vec!["only".into()])?;
//! let normalization = Normalization::adapt(&data)?;
//! assert_eq!(normalization.mean, [1.0, 10.0, 10.0]);
//! assert_eq!(normalization.variance, [1.0, 0.0, 25.0]);
//! # Ok::<(), perceiver_data::DataError>(())
//! ```

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::dataset::Dataset;
use crate::dataset::image::{CHANNELS, Image};
use crate::error::{DataError, Result};
use crate::progress::{ProgressCallback, Work};

/// The smallest divisor, as in Keras (`keras.backend.epsilon()`).
const EPSILON: f32 = 1e-7;

/// Mean and variance per channel (red, green, blue), of pixel values 0 to 255.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalization {
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Variance of each channel (not the standard deviation).
    pub variance: Vec<f32>,
}

/// The normalized value of each of the 256 pixel values, per channel.
pub(crate) type Table = [[f32; 256]; CHANNELS];

impl Normalization {
    /// Computes the mean and population variance over every pixel of `data`, so larger images weigh
    /// more. The sums are exact, so the result does not depend on their order.
    ///
    /// # Errors
    /// When `data` is empty.
    pub fn adapt(data: &Dataset) -> Result<Self> {
        let sums = ChannelSums::of(data.images(), &ProgressCallback::default());
        Self::of_sums(&sums, data.name())
    }

    /// Computes the mean and population variance from sums over the images of a data set called
    /// `name`.
    ///
    /// # Errors
    /// When the sums contain no image.
    pub fn of_sums(sums: &ChannelSums, name: &str) -> Result<Self> {
        if sums.0.iter().any(|sums| sums.count == 0) {
            return Err(DataError::Inconsistent {
                name: name.to_owned(),
                expected: "at least one image to compute mean and variance of".to_owned(),
                found: "none".to_owned(),
            });
        }
        Ok(Self {
            mean: sums.0.iter().map(|s| s.mean() as f32).collect(),
            variance: sums.0.iter().map(|s| s.variance() as f32).collect(),
        })
    }

    /// Returns an error if there are not three channels, or the values are not a valid mean and
    /// variance.
    pub fn validate(&self) -> Result<()> {
        let mean = self.mean.iter().all(|v| v.is_finite());
        let variance = self.variance.iter().all(|v| v.is_finite() && *v >= 0.0);
        let channels = [self.mean.len(), self.variance.len()];
        if mean && variance && channels == [CHANNELS; 2] {
            return Ok(());
        }
        Err(DataError::InvalidOption {
            option: "normalization",
            expected: format!("{CHANNELS} finite means and {CHANNELS} variances of at least 0"),
            found: format!("means {:?} and variances {:?}", self.mean, self.variance),
        })
    }

    /// Returns the table of normalized values. The normalization must be valid.
    pub(crate) fn table(&self) -> Table {
        let mut table = [[0.0; 256]; CHANNELS];
        for (row, (mean, variance)) in table.iter_mut().zip(self.mean.iter().zip(&self.variance)) {
            let deviation = variance.sqrt().max(EPSILON);
            for (value, out) in row.iter_mut().enumerate() {
                *out = (value as f32 - mean) / deviation;
            }
        }
        table
    }
}

/// Writes the normalized value of every byte of an image to `out`, `[3, height, width]`.
pub(crate) fn look_up(table: &Table, image: &Image, out: &mut [f32]) {
    let plane_len = image.height() * image.width();
    let planes = image.pixels().chunks_exact(plane_len);
    let outputs = out.chunks_exact_mut(plane_len);
    for ((plane, out), values) in planes.zip(outputs).zip(table) {
        for (value, byte) in out.iter_mut().zip(plane) {
            *value = values[usize::from(*byte)];
        }
    }
}

/// Exact per-channel sums over pixels, from which mean and variance are computed. They can be added
/// in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelSums([Sums; CHANNELS]);

impl ChannelSums {
    /// The length of [`ChannelSums::to_numbers`].
    pub const NUMBERS: usize = 2 * 3 * CHANNELS;

    /// Computes the sums over images; `watcher` receives the progress.
    pub fn of(images: &[Image], watcher: &ProgressCallback) -> Self {
        let seen = watcher.counter(Work::Adapt, images.len());
        images
            .par_iter()
            .map(Self::of_one)
            .inspect(|_| seen.one_more())
            .reduce(Self::default, Self::plus)
    }

    /// Computes the sums over one image.
    pub fn of_one(image: &Image) -> Self {
        let mut sums = [Sums::default(); CHANNELS];
        let planes = image.pixels().chunks_exact(image.height() * image.width());
        for (sums, plane) in sums.iter_mut().zip(planes) {
            sums.count = plane.len() as u64;
            sums.sum = plane.iter().map(|&v| u64::from(v)).sum();
            sums.squares = plane.iter().map(|&v| u64::from(v) * u64::from(v)).sum();
        }
        Self(sums)
    }

    /// Adds two sums.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(std::array::from_fn(|channel| {
            self.0[channel].plus(&other.0[channel])
        }))
    }

    /// Converts the sums to numbers that can be added elsewhere (all-reduce), without rounding for
    /// up to 2^20 summands: 32-bit halves, the low one first.
    pub fn to_numbers(self) -> [f64; Self::NUMBERS] {
        let all = self.0.map(|sums| [sums.count, sums.sum, sums.squares]);
        let halves = all.as_flattened().iter();
        let mut halves = halves.flat_map(|&sum| [(sum as u32).into(), ((sum >> 32) as u32).into()]);
        std::array::from_fn(|_| halves.next().unwrap_or(0.0))
    }

    /// Converts the output of [`ChannelSums::to_numbers`], or the sum of several, back to sums.
    pub fn from_numbers(numbers: &[f64; Self::NUMBERS]) -> Self {
        let sum = |at: usize| numbers[2 * at] as u64 + ((numbers[2 * at + 1] as u64) << 32);
        Self(std::array::from_fn(|channel| Sums {
            count: sum(3 * channel),
            sum: sum(3 * channel + 1),
            squares: sum(3 * channel + 2),
        }))
    }
}

/// Count, sum and sum of squares of pixel values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Sums {
    count: u64,
    sum: u64,
    squares: u64,
}

impl Sums {
    fn plus(&self, other: &Self) -> Self {
        Self {
            count: self.count + other.count,
            sum: self.sum + other.sum,
            squares: self.squares + other.squares,
        }
    }

    fn mean(&self) -> f64 {
        self.sum as f64 / self.count as f64
    }

    /// Computes `E[x^2] - E[x]^2` over a common denominator, where integers cancel exactly.
    fn variance(&self) -> f64 {
        let [count, sum, squares] = [self.count, self.sum, self.squares].map(u128::from);
        (count * squares - sum * sum) as f64 / (count * count) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_added_in_parts_without_rounding() {
        let sums = |count, sum, squares| Sums {
            count,
            sum,
            squares,
        };
        let large = u64::MAX / 4;
        let [a, b] = [large - 1, u64::from(u32::MAX)];
        let parts = [[a, b, 7], [b, 1, a]]
            .map(|[count, sum, squares]| ChannelSums([sums(count, sum, squares); CHANNELS]));
        let [mut numbers, others] = parts.map(ChannelSums::to_numbers);
        for (number, other) in numbers.iter_mut().zip(others) {
            *number += other;
        }
        let whole = parts[0].plus(parts[1]);
        assert_eq!(ChannelSums::from_numbers(&numbers), whole);
    }

    #[test]
    fn all_pixels_have_equal_weight_across_image_sizes() {
        // Red: one pixel of 10 and four of 20.
        let small = Image::new(1, 1, vec![10, 0, 0]).unwrap();
        let large = Image::new(2, 2, [[20; 4], [0; 4], [0; 4]].concat()).unwrap();
        let data = Dataset::new("two", vec![small, large], vec![0, 0], vec!["a".into()]).unwrap();
        let normalization = Normalization::adapt(&data).unwrap();
        assert_eq!(normalization.mean, [18.0, 0.0, 0.0]);
        assert_eq!(normalization.variance, [16.0, 0.0, 0.0]);
    }

    #[test]
    fn adapting_to_no_images_is_an_error() {
        let data = Dataset::new("none", vec![], vec![], vec![]).unwrap();
        let message = Normalization::adapt(&data).unwrap_err().to_string();
        assert!(
            message.contains("none: expected at least one image"),
            "{message}"
        );
    }

    #[test]
    fn a_channel_without_variance_is_divided_by_epsilon() {
        let normalization = Normalization {
            mean: vec![1.0; 3],
            variance: vec![4.0, 0.0, 1.0],
        };
        let table = normalization.table();
        assert_eq!(table[0][1..4], [0.0, 0.5, 1.0]);
        assert_eq!(table[1][1..3], [0.0, 1.0 / EPSILON]);
    }

    #[test]
    fn invalid_channels_and_values_are_rejected() {
        let two = Normalization {
            mean: vec![0.0; 2],
            variance: vec![1.0; 2],
        };
        let negative = Normalization {
            mean: vec![0.0; 3],
            variance: vec![1.0, 1.0, -1.0],
        };
        let endless = Normalization {
            mean: vec![f32::NAN; 3],
            variance: vec![1.0; 3],
        };
        for wrong in [two, negative, endless] {
            assert!(matches!(
                wrong.validate(),
                Err(DataError::InvalidOption { .. })
            ));
        }
    }
}
