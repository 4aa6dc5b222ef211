//! Cross-entropy loss, Keras's `SparseCategoricalCrossentropy(from_logits=True)`, also for soft
//! targets (label smoothing, mixup, CutMix) and with class weights.

use candle_core::{D, Device, Tensor};
use perceiver_data::Batch;
use perceiver_ops::{Upload, cross_entropy_to, weighted_cross_entropy_to};

use crate::error::Result;
use crate::step::class_weights::{ClassWeights, no_class};

/// Computes the loss of every sample in nats, `[batch]`, from `logits` `[batch, classes]` and
/// `labels` `[batch]` (u32).
///
/// # Errors
/// When the shapes do not match or a label is not a class.
pub fn cross_entropies(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let log_probabilities = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    let of_labels = log_probabilities.gather(&labels.unsqueeze(1)?, 1)?; // [batch, 1]
    Ok(of_labels.squeeze(1)?.neg()?)
}

/// Computes the mean loss of a batch, a scalar.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use perceiver_train::cross_entropy;
///
/// // Even scores over four classes: ln 4, whatever the label.
/// let logits = Tensor::new(&[[0f32, 0.0, 0.0, 0.0]], &Device::Cpu)?;
/// let loss = cross_entropy(&logits, &Tensor::new(&[2u32], &Device::Cpu)?)?;
/// assert_eq!(loss.to_scalar::<f32>()?, 4f32.ln());
/// # Ok::<(), perceiver_train::TrainError>(())
/// ```
///
/// # Errors
/// As for [`cross_entropies`].
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    Ok(cross_entropies(logits, labels)?.mean_all()?)
}

/// A loss of a program's own: from logits `[batch, classes]` and target probabilities
/// `[batch, classes]` to the mean over the batch, a scalar.
pub(crate) type CustomLoss = dyn Fn(&Tensor, &Tensor) -> candle_core::Result<Tensor> + Send + Sync;

/// The target probabilities of a batch, and the weights of its samples.
#[derive(Clone, Debug)]
pub struct Targets {
    probabilities: Tensor, // [batch, classes], rows sum to 1
    /// The factor on the loss of every sample, if the classes have weights.
    weights: Option<Tensor>, // [batch]
}

impl Targets {
    /// Creates the targets of a batch with label smoothing: `smoothing` of every label is spread
    /// evenly over all classes (Szegedy et al., "Rethinking the Inception architecture for computer
    /// vision", 2016; Keras's `label_smoothing`). `weights` multiply the loss of every sample by
    /// the weight of its label before smoothing.
    ///
    /// # Errors
    /// When a label is not a class, or the device of `upload` is out of memory.
    pub fn new(
        batch: &Batch,
        classes: usize,
        smoothing: f64,
        weights: Option<&ClassWeights>,
        upload: &mut Upload,
    ) -> Result<Self> {
        let labels = batch.labels.to_vec1::<u32>()?;
        let even = (smoothing / classes as f64) as f32;
        let mut targets = vec![even; labels.len() * classes];
        let mut add = |sample: usize, label: u32, share: f32| {
            let row = &mut targets[sample * classes..][..classes];
            let Some(target) = row.get_mut(label as usize) else {
                return Err(no_class(label, classes));
            };
            *target += (1.0 - smoothing as f32) * share;
            Ok(())
        };
        match &batch.mixed {
            None => {
                for (sample, label) in labels.iter().enumerate() {
                    add(sample, *label, 1.0)?;
                }
            }
            Some(mixed) => {
                let others = mixed.labels.to_vec1::<u32>()?;
                let shares = mixed.shares.to_vec1::<f32>()?;
                for (sample, (label, share)) in labels.iter().zip(shares).enumerate() {
                    add(sample, *label, share)?;
                    add(sample, others[sample], 1.0 - share)?;
                }
            }
        }
        let targets = Tensor::from_vec(targets, (labels.len(), classes), &Device::Cpu)?;
        let weights = match weights {
            None => None,
            Some(weights) => {
                let of_samples = weights.of_batch(batch)?;
                let of_samples = Tensor::from_vec(of_samples, labels.len(), &Device::Cpu)?;
                Some(upload.copy(&of_samples)?)
            }
        };
        Ok(Self {
            probabilities: upload.copy(&targets)?,
            weights,
        })
    }

    /// Returns the targets of `count` samples, from index `start` on.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn part(&self, start: usize, count: usize) -> Result<Self> {
        let part = |tensor: &Tensor| tensor.narrow(0, start, count);
        Ok(Self {
            probabilities: part(&self.probabilities)?,
            weights: self.weights.as_ref().map(part).transpose()?,
        })
    }

    /// Returns the target probabilities, `[batch, classes]`; the sum of a row is 1.
    pub fn probabilities(&self) -> &Tensor {
        &self.probabilities
    }

    /// Computes the mean loss of `logits` `[batch, classes]`, a scalar: cross-entropy with the
    /// target probabilities, of every sample times its weight. As Keras's `class_weight`, it is the
    /// mean over the samples, not divided by the sum of their weights.
    ///
    /// # Errors
    /// When the shapes do not match.
    pub fn loss(&self, logits: &Tensor) -> Result<Tensor> {
        Ok(match &self.weights {
            None => cross_entropy_to(logits, &self.probabilities)?,
            Some(weights) => weighted_cross_entropy_to(logits, &self.probabilities, weights)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;
    use perceiver_data::Mixed;

    fn batch(mixed: Option<Mixed>) -> Batch {
        Batch {
            images: Tensor::zeros((2, 3, 1, 1), candle_core::DType::F32, &Device::Cpu).unwrap(),
            labels: Tensor::new(&[0u32, 2], &Device::Cpu).unwrap(),
            mixed,
            indices: vec![0, 1],
        }
    }

    /// Compares with `-sum_c target_c log p_c` for explicit targets.
    #[test]
    fn soft_targets_combine_mixing_and_smoothing() {
        let logits = Tensor::new(&[[1f32, -1.0, 0.5], [0.0, 2.0, 0.3]], &Device::Cpu).unwrap();
        let mixed = Mixed {
            labels: Tensor::new(&[1u32, 2], &Device::Cpu).unwrap(),
            shares: Tensor::new(&[0.75f32, 1.0], &Device::Cpu).unwrap(),
        };
        let log_p = candle_nn::ops::log_softmax(&logits, 1).unwrap();
        let log_p = log_p.to_vec2::<f32>().unwrap();
        for smoothing in [0.0, 0.1] {
            let hard = [[0.75, 0.25, 0.0], [0.0, 0.0, 1.0]];
            let soft = |target: f64| (1.0 - smoothing) * target + smoothing / 3.0;
            let expected: f64 = (0..2)
                .flat_map(|row| (0..3).map(move |class| (row, class)))
                .map(|(row, class)| -soft(hard[row][class]) * f64::from(log_p[row][class]) / 2.0)
                .sum();
            let batch = batch(Some(mixed.clone()));
            let targets =
                Targets::new(&batch, 3, smoothing, None, &mut Upload::new(&Device::Cpu)).unwrap();
            let loss = targets.loss(&logits).unwrap().to_scalar::<f32>().unwrap();
            assert!(
                (f64::from(loss) - expected).abs() < 1e-6,
                "{loss}, not {expected}"
            );
            let parts: f64 = (0..2)
                .map(|row| {
                    let part = targets.part(row, 1).unwrap();
                    let loss = part.loss(&logits.narrow(0, row, 1).unwrap()).unwrap();
                    f64::from(loss.to_scalar::<f32>().unwrap()) / 2.0
                })
                .sum();
            assert!((parts - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn hard_targets_equal_cross_entropy() {
        let logits = Tensor::new(&[[1f32, -1.0, 0.5], [0.0, 2.0, 0.3]], &Device::Cpu).unwrap();
        let mut upload = Upload::new(&Device::Cpu);
        let targets = Targets::new(&batch(None), 3, 0.0, None, &mut upload).unwrap();
        let labels = Tensor::new(&[0u32, 2], &Device::Cpu).unwrap();
        let plain = cross_entropy(&logits, &labels).unwrap();
        let actual = targets.loss(&logits).unwrap();
        assert_eq!(
            actual.to_scalar::<f32>().unwrap().to_bits(),
            plain.to_scalar::<f32>().unwrap().to_bits()
        );
    }

    /// Class weights give the loss and the gradient of `mean(weight * loss)`, weighted by hand, and
    /// parts of the batch add up to the whole.
    #[test]
    fn class_weights_equal_weighting_by_hand() {
        let logits = [[1f32, -1.0, 0.5], [0.0, 2.0, 0.3]];
        let mixed = Mixed {
            labels: Tensor::new(&[1u32, 2], &Device::Cpu).unwrap(),
            shares: Tensor::new(&[0.75f32, 1.0], &Device::Cpu).unwrap(),
        };
        let class_weights = ClassWeights::balanced(&[8, 1, 3]); // 0.5, 4, 4 / 3
        for (mixed, by_hand) in [
            (None, [0.5, 4.0 / 3.0]),
            (Some(mixed), [0.75 * 0.5 + 0.25 * 4.0, 4.0 / 3.0]),
        ] {
            let batch = batch(mixed);
            let targets = |weights: Option<&ClassWeights>| {
                let mut upload = Upload::new(&Device::Cpu);
                Targets::new(&batch, 3, 0.1, weights, &mut upload).unwrap()
            };
            let loss_and_gradient = |loss: &dyn Fn(&Tensor) -> Tensor| {
                let logits = Var::new(&logits, &Device::Cpu).unwrap();
                let loss = loss(&logits);
                let gradients = loss.backward().unwrap();
                let gradient = gradients.get(&logits).unwrap().flatten_all().unwrap();
                let mut numbers = gradient.to_vec1::<f32>().unwrap();
                numbers.push(loss.to_scalar().unwrap());
                numbers
            };
            let weighted = targets(Some(&class_weights));
            let actual = loss_and_gradient(&|logits: &Tensor| weighted.loss(logits).unwrap());
            let plain = targets(None);
            let expected = loss_and_gradient(&|logits: &Tensor| {
                let of_sample = |row: usize| {
                    let logits = logits.narrow(0, row, 1).unwrap();
                    let loss = plain.part(row, 1).unwrap().loss(&logits).unwrap();
                    (loss * (by_hand[row] / 2.0)).unwrap()
                };
                (of_sample(0) + of_sample(1)).unwrap()
            });
            let in_parts = loss_and_gradient(&|logits: &Tensor| {
                let of_part = |row: usize| {
                    let logits = logits.narrow(0, row, 1).unwrap();
                    let loss = weighted.part(row, 1).unwrap().loss(&logits).unwrap();
                    (loss / 2.0).unwrap()
                };
                (of_part(0) + of_part(1)).unwrap()
            });
            for numbers in [&actual, &in_parts] {
                assert_eq!(numbers.len(), expected.len());
                for (number, expected) in numbers.iter().zip(&expected) {
                    assert!((number - expected).abs() < 1e-6, "{number}, not {expected}");
                }
            }
            let unweighted = loss_and_gradient(&|logits: &Tensor| plain.loss(logits).unwrap());
            assert!((actual[6] - unweighted[6]).abs() > 0.01);
        }
    }
}
