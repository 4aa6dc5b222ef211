//! Per-channel standardization, Keras's `Normalization`: `(x - mean) / max(sqrt(variance), 1e-7)`.
//!
//! Mean and variance are learned once, from the training pictures, with pixel values 0 to 255 as they come; they
//! are part of a checkpoint.
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
use crate::error::{DataError, Result};
use crate::image::{CHANNELS, Image};
use crate::watcher::{Watcher, Work};

/// The smallest divisor, as in Keras (`keras.backend.epsilon()`).
const EPSILON: f32 = 1e-7;

/// Mean and variance of each channel, red, green and blue, in units of pixel values 0 to 255.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalization {
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Variance of each channel, not its square root.
    pub variance: Vec<f32>,
}

/// What every pixel value becomes, per channel: eight bits have only 256 values.
pub(crate) type Table = [[f32; 256]; CHANNELS];

impl Normalization {
    /// The mean and population variance over every pixel of `data`, each picture counting by its size. The sums
    /// are exact, so that the result depends on no order of summation.
    ///
    /// # Errors
    /// When `data` is empty.
    pub fn adapt(data: &Dataset) -> Result<Self> {
        Self::adapt_watched(data, &Watcher::default())
    }

    /// [`Normalization::adapt`], telling `watcher` how far it is.
    ///
    /// # Errors
    /// When `data` is empty.
    pub fn adapt_watched(data: &Dataset, watcher: &Watcher) -> Result<Self> {
        if data.is_empty() {
            return Err(DataError::Inconsistent {
                name: data.name().to_owned(),
                expected: "at least one picture to take mean and variance of".to_owned(),
                found: "none".to_owned(),
            });
        }
        let seen = watcher.counter(Work::Adapt, data.len());
        let sums = data
            .images()
            .par_iter()
            .map(channel_sums)
            .inspect(|_| seen.one_more())
            .reduce(<[Sums; CHANNELS]>::default, |a, b| {
                std::array::from_fn(|channel| a[channel].plus(&b[channel]))
            });
        Ok(Self {
            mean: sums.iter().map(|s| s.mean() as f32).collect(),
            variance: sums.iter().map(|s| s.variance() as f32).collect(),
        })
    }

    /// Refuses what cannot be applied to a picture: not three channels, or numbers that are no mean and variance.
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

    /// The normalized value of each of the 256 pixel values in each channel. To be called on what is valid.
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

/// Count, sum and sum of squares of some pixel values.
#[derive(Clone, Copy, Default)]
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

    /// `E[x^2] - E[x]^2` over a common denominator, where whole numbers cancel exactly.
    fn variance(&self) -> f64 {
        let [count, sum, squares] = [self.count, self.sum, self.squares].map(u128::from);
        (count * squares - sum * sum) as f64 / (count * count) as f64
    }
}

fn channel_sums(image: &Image) -> [Sums; CHANNELS] {
    let mut sums = [Sums::default(); CHANNELS];
    let planes = image.pixels().chunks_exact(image.height() * image.width());
    for (sums, plane) in sums.iter_mut().zip(planes) {
        sums.count = plane.len() as u64;
        sums.sum = plane.iter().map(|&v| u64::from(v)).sum();
        sums.squares = plane.iter().map(|&v| u64::from(v) * u64::from(v)).sum();
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_count_alike_in_pictures_of_different_sizes() {
        // Red: one pixel of 10 and four of 20.
        let small = Image::new(1, 1, vec![10, 0, 0]).unwrap();
        let large = Image::new(2, 2, [[20; 4], [0; 4], [0; 4]].concat()).unwrap();
        let data = Dataset::new("two", vec![small, large], vec![0, 0], vec!["a".into()]).unwrap();
        let normalization = Normalization::adapt(&data).unwrap();
        assert_eq!(normalization.mean, [18.0, 0.0, 0.0]);
        assert_eq!(normalization.variance, [16.0, 0.0, 0.0]);
    }

    #[test]
    fn adapting_to_nothing_is_an_error() {
        let data = Dataset::new("none", vec![], vec![], vec![]).unwrap();
        let message = Normalization::adapt(&data).unwrap_err().to_string();
        assert!(
            message.contains("none: expected at least one picture"),
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
    fn wrong_channels_and_values_are_refused() {
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
