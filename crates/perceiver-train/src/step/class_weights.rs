//! Class weights: the loss of an image of a rare class counts more.

use candle_core::Tensor;
use perceiver_data::Batch;

use crate::error::Result;

/// The factor that multiplies the loss of the images of each class.
///
/// ```
/// use perceiver_train::ClassWeights;
///
/// // Of eight images, six are of the first class and two of the second; the third has none.
/// let weights = ClassWeights::balanced(&[6, 2, 0]);
/// assert_eq!(weights.values(), [8.0 / 12.0, 8.0 / 4.0, 0.0]);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ClassWeights(Vec<f32>);

impl ClassWeights {
    /// Creates weights that make every class count the same, whatever its number of images:
    /// `images / (classes * images of the class)`, as scikit-learn's `class_weight="balanced"`.
    /// The mean weight of an image is 1. `counts` are the numbers of training images of each class;
    /// a class without any has weight 0 and is not counted.
    pub fn balanced(counts: &[usize]) -> Self {
        let images = counts.iter().sum::<usize>() as f64;
        let classes = counts.iter().filter(|count| **count > 0).count() as f64;
        let weights = counts.iter().map(|&count| match count {
            0 => 0.0,
            _ => (images / (classes * count as f64)) as f32,
        });
        Self(weights.collect())
    }

    /// Returns the weight of each class.
    pub fn values(&self) -> &[f32] {
        &self.0
    }

    /// Returns the weight of every image of a batch: that of its class. An image mixed from two has
    /// the weights of both classes by their shares.
    ///
    /// # Errors
    /// When a label is not a class.
    pub(crate) fn of_batch(&self, batch: &Batch) -> Result<Vec<f32>> {
        let Some(mixed) = &batch.mixed else {
            return self.of_labels(&batch.labels);
        };
        let labels = batch.labels.to_vec1::<u32>()?;
        let others = mixed.labels.to_vec1::<u32>()?;
        let shares = mixed.shares.to_vec1::<f32>()?;
        let pairs = labels.into_iter().zip(others).zip(shares);
        pairs
            .map(|((label, other), share)| {
                Ok(share * self.of(label)? + (1.0 - share) * self.of(other)?)
            })
            .collect()
    }

    /// Returns the weight of every image with these labels, u32 `[n]`.
    ///
    /// # Errors
    /// When a label is not a class.
    pub(crate) fn of_labels(&self, labels: &Tensor) -> Result<Vec<f32>> {
        let labels = labels.to_vec1::<u32>()?.into_iter();
        labels.map(|label| self.of(label)).collect()
    }

    fn of(&self, label: u32) -> Result<f32> {
        match self.0.get(label as usize) {
            Some(weight) => Ok(*weight),
            None => Err(no_class(label, self.0.len()).into()),
        }
    }
}

/// Returns the error of a label that is not one of `classes` classes.
pub(crate) fn no_class(label: u32, classes: usize) -> candle_core::Error {
    candle_core::Error::Msg(format!("label {label}: expected one of {classes} classes")).bt()
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use perceiver_data::Mixed;

    use super::*;

    fn batch(labels: &[u32], mixed: Option<Mixed>) -> Batch {
        Batch {
            images: Tensor::zeros((labels.len(), 3, 1, 1), DType::F32, &Device::Cpu).unwrap(),
            labels: Tensor::new(labels, &Device::Cpu).unwrap(),
            mixed,
            indices: (0..labels.len()).collect(),
        }
    }

    /// By hand: 12 images of 3 classes, so 12 / (3 * count).
    #[test]
    fn balanced_weights_are_those_of_scikit_learn() {
        let weights = ClassWeights::balanced(&[8, 1, 3]);
        assert_eq!(weights.values(), [0.5, 4.0, 4.0 / 3.0]);
        // Every class has the same total, and the mean of an image is 1.
        let totals = [8.0, 1.0, 3.0].iter().zip(weights.values());
        let totals: Vec<f32> = totals.map(|(count, weight)| count * weight).collect();
        assert_eq!(totals, [4.0; 3]);
        assert_eq!(ClassWeights::balanced(&[5, 5]).values(), [1.0, 1.0]);
        assert_eq!(
            ClassWeights::balanced(&[8, 0, 2]).values(),
            [0.625, 0.0, 2.5],
            "a class without images is not counted"
        );
    }

    #[test]
    fn mixed_images_have_the_weights_of_both_classes_by_their_shares() {
        let weights = ClassWeights::balanced(&[8, 1, 3]);
        let plain = weights.of_batch(&batch(&[1, 0], None)).unwrap();
        assert_eq!(plain, [4.0, 0.5]);
        let mixed = Mixed {
            labels: Tensor::new(&[0u32, 0], &Device::Cpu).unwrap(),
            shares: Tensor::new(&[0.75f32, 0.25], &Device::Cpu).unwrap(),
        };
        let mixed = weights.of_batch(&batch(&[1, 0], Some(mixed))).unwrap();
        assert_eq!(mixed, [0.75 * 4.0 + 0.25 * 0.5, 0.5]);
    }

    #[test]
    fn labels_without_a_weight_are_errors() {
        let error = ClassWeights::balanced(&[1, 1]).of_batch(&batch(&[2], None));
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("label 2: expected one of 2 classes"),
            "{error}"
        );
    }
}
