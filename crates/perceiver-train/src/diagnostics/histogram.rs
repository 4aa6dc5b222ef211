//! Histograms of weights and gradients: buckets of equal width, as `tf.summary.histogram` has them.

use candle_core::{DType, Tensor};

use crate::error::Result;

/// The number of buckets: that of `tf.summary.histogram`.
const BUCKETS: usize = 30;

/// A histogram of the finite values of a tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// The lowest value; 0 without values.
    pub min: f64,
    /// The highest value; 0 without values.
    pub max: f64,
    /// The number of values.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// The sum of their squares.
    pub sum_of_squares: f64,
    /// The upper limit of each bucket. The first bucket starts at `min`; each contains its upper
    /// limit.
    pub limits: Vec<f64>,
    /// The number of values in each bucket.
    pub counts: Vec<u64>,
}

impl Histogram {
    /// Counts the values of a tensor of any shape, type and device.
    ///
    /// # Errors
    /// When candle refuses an operation.
    pub fn of(tensor: &Tensor) -> Result<Self> {
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?;
        Ok(Self::of_values(&values.to_vec1::<f32>()?))
    }

    /// Counts values.
    ///
    /// ```
    /// use perceiver_train::Histogram;
    ///
    /// let histogram = Histogram::of_values(&[0.0, 0.0, 3.0]);
    /// assert_eq!((histogram.min, histogram.max, histogram.count), (0.0, 3.0, 3));
    /// assert_eq!((histogram.counts[0], histogram.counts[29]), (2, 1));
    /// ```
    pub fn of_values(values: &[f32]) -> Self {
        let finite = || {
            let finite = values.iter().filter(|value| value.is_finite());
            finite.map(|&value| f64::from(value))
        };
        let (min, max) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), value| {
            (min.min(value), max.max(value))
        });
        if min > max {
            return Self::default();
        }
        let mut histogram = Self {
            min,
            max,
            ..Self::default()
        };
        let width = (max - min) / BUCKETS as f64;
        let buckets = if width > 0.0 { BUCKETS } else { 1 };
        let limits = (1..=buckets).map(|bucket| match bucket {
            last if last == buckets => max,
            bucket => min + width * bucket as f64,
        });
        histogram.limits = limits.collect();
        histogram.counts = vec![0; buckets];
        for value in finite() {
            histogram.count += 1;
            histogram.sum += value;
            histogram.sum_of_squares += value * value;
            let bucket = histogram.limits.partition_point(|&limit| limit < value);
            histogram.counts[bucket.min(buckets - 1)] += 1;
        }
        histogram
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn values_are_counted_in_their_buckets() {
        let values: Vec<f32> = (0..=300).map(|value| value as f32).collect();
        let histogram = Histogram::of_values(&values);
        assert_eq!(histogram.limits.len(), BUCKETS);
        assert_eq!((histogram.limits[0], histogram.limits[29]), (10.0, 300.0));
        assert_eq!((histogram.counts[0], histogram.counts[1]), (11, 10));
        assert_eq!(histogram.counts.iter().sum::<u64>(), 301);
        assert_eq!((histogram.sum, histogram.count), (45_150.0, 301));
        assert!((histogram.sum_of_squares - 9_045_050.0).abs() < 1e-6);
    }

    #[test]
    fn equal_and_missing_values_have_few_buckets() {
        let equal = Histogram::of_values(&[0.5, 0.5, f32::NAN, f32::INFINITY]);
        assert_eq!((equal.limits, equal.counts), (vec![0.5], vec![2]));
        assert_eq!(Histogram::of_values(&[f32::NAN]), Histogram::default());
    }

    #[test]
    fn tensors_of_other_types_are_converted() {
        let tensor = Tensor::new(&[[1.0f64, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let tensor = tensor.to_dtype(DType::BF16).unwrap();
        let histogram = Histogram::of(&tensor.t().unwrap()).unwrap();
        assert_eq!(
            (histogram.min, histogram.max, histogram.sum),
            (1.0, 4.0, 10.0)
        );
    }
}
