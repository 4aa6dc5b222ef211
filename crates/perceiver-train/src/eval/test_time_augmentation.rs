//! Test-time augmentation: averages the predictions for an image and its mirror image.

use candle_core::{D, Tensor};
use perceiver_model::Classifier;
use perceiver_ops::Mode;

use crate::error::Result;

/// The versions of an image that a prediction is averaged over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TestTimeAugmentation {
    /// The image only.
    #[default]
    None,
    /// The image and its mirror image, with averaged probabilities.
    HorizontalFlip,
}

impl TestTimeAugmentation {
    /// Returns the augmentation with or without the mirror image.
    pub fn new(flip_average: bool) -> Self {
        if flip_average {
            Self::HorizontalFlip
        } else {
            Self::None
        }
    }

    /// Computes the scores `[n, classes]` of images `[n, 3, side, side]`: logits for the image
    /// only, else the logarithms of the mean probabilities. A softmax turns either into
    /// probabilities.
    ///
    /// # Errors
    /// When candle refuses an operation.
    pub fn scores(self, model: &dyn Classifier, images: &Tensor) -> Result<Tensor> {
        let logits = model.forward(images, Mode::Inference)?;
        match self {
            Self::None => Ok(logits),
            Self::HorizontalFlip => {
                let mirrored = images.flip(&[3])?; // left to right
                log_of_mean(&logits, &model.forward(&mirrored, Mode::Inference)?)
            }
        }
    }
}

/// Returns the logarithm of the mean of two softmaxes. The higher of the two logarithms is factored
/// out, so that no probability underflows.
fn log_of_mean(logits: &Tensor, others: &Tensor) -> Result<Tensor> {
    let [a, b] = [logits, others].map(|logits| candle_nn::ops::log_softmax(logits, D::Minus1));
    let (a, b) = (a?, b?);
    let higher = a.maximum(&b)?;
    let sum = ((a - &higher)?.exp()? + (b - &higher)?.exp()?)?; // from 1 to 2
    Ok((higher + (sum / 2.0)?.log()?)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use perceiver_model::{Parameters, Perceiver, PerceiverConfig};

    use super::*;
    use crate::eval::metrics::MetricSums;

    /// Returns a small model that distinguishes left from right, and two images.
    fn model_and_images() -> (Perceiver, Tensor) {
        let config = PerceiverConfig {
            image_size: 8,
            patch_size: 4,
            latent_dim: 4,
            projection_dim: 8,
            num_heads: 2,
            num_transformer_blocks: 1,
            ffn_units: vec![8],
            classifier_units: vec![6],
            ..PerceiverConfig::default()
        };
        let parameters = Parameters::from_seed(&config, 1, &Device::Cpu).unwrap();
        let model = parameters.inference_model(&config).unwrap();
        let values: Vec<f32> = (0..2 * 3 * 8 * 8_u16)
            .map(|i| f32::from(i * 37 % 101) / 50.0 - 1.0)
            .collect();
        let images = Tensor::from_vec(values, (2, 3, 8, 8), &Device::Cpu).unwrap();
        (model, images)
    }

    fn scores(views: TestTimeAugmentation, model: &Perceiver, images: &Tensor) -> Vec<Vec<f32>> {
        views.scores(model, images).unwrap().to_vec2().unwrap()
    }

    #[test]
    fn an_image_and_its_mirror_image_get_the_same_scores() {
        let (model, images) = model_and_images();
        let mirrored = images.flip(&[3]).unwrap();
        let of = |views, images| scores(views, &model, images);
        assert_ne!(
            of(TestTimeAugmentation::None, &images),
            of(TestTimeAugmentation::None, &mirrored)
        );
        assert_eq!(
            of(TestTimeAugmentation::HorizontalFlip, &images),
            of(TestTimeAugmentation::HorizontalFlip, &mirrored)
        );
    }

    #[test]
    fn symmetric_images_keep_their_metrics() {
        let (model, images) = model_and_images();
        let symmetric = ((&images + images.flip(&[3]).unwrap()).unwrap() / 2.0).unwrap();
        let labels = Tensor::new(&[1_u32, 4], &Device::Cpu).unwrap();
        let [alone, averaged] = [
            TestTimeAugmentation::None,
            TestTimeAugmentation::HorizontalFlip,
        ]
        .map(|views| {
            let mut sums = MetricSums::default();
            let scores = views.scores(&model, &symmetric).unwrap();
            sums.update(&scores, &labels).unwrap();
            sums.means()
        });
        assert!((alone.loss - averaged.loss).abs() < 1e-6);
        assert_eq!(
            (alone.acc, alone.top5_acc),
            (averaged.acc, averaged.top5_acc)
        );
    }

    /// The loss is -ln of the mean probability, and the order of the classes is that of the means.
    #[test]
    fn probabilities_are_averaged() {
        let logits = |probabilities: [f32; 3]| {
            Tensor::new(&[probabilities.map(|p| p.ln() + 7.0)], &Device::Cpu).unwrap()
        };
        let (a, b) = (logits([0.5, 0.25, 0.25]), logits([0.1, 0.8, 0.1]));
        let mean = log_of_mean(&a, &b).unwrap();
        for (actual, expected) in mean.to_vec2::<f32>().unwrap()[0]
            .iter()
            .zip([0.3_f32, 0.525, 0.175])
        {
            assert!(
                (actual.exp() - expected).abs() < 1e-6,
                "{actual}, {expected}"
            );
        }
        for (label, right) in [(0_u32, 0.0), (1, 1.0)] {
            let mut sums = MetricSums::default();
            let labels = Tensor::new(&[label], &Device::Cpu).unwrap();
            sums.update(&mean, &labels).unwrap();
            let expected = -[0.3_f64, 0.525][label as usize].ln();
            assert!((sums.means().loss - expected).abs() < 1e-6);
            assert!((sums.means().acc - right).abs() < f64::EPSILON);
        }
    }

    #[test]
    fn very_small_probabilities_do_not_underflow() {
        let logits = |values: [f32; 2]| Tensor::new(&[values], &Device::Cpu).unwrap();
        let mean = log_of_mean(&logits([0.0, -300.0]), &logits([0.0, -400.0])).unwrap();
        let actual = mean.to_vec2::<f32>().unwrap()[0][1];
        assert!((actual - (-300.0 - 2_f32.ln())).abs() < 1e-3, "{actual}");
    }
}
