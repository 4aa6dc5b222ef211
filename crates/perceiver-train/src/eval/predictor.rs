//! Prediction: encoded images to class probabilities, for `perceiver predict` and the server.

use std::path::Path;

use candle_core::Tensor;
use perceiver_data::Image;

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::eval::test_time_augmentation::TestTimeAugmentation;
use crate::eval::top_classes::{ClassProbability, top_classes};

/// A checkpoint with its settings of prediction. Everything that classifies images of users goes
/// through it, so that an image gets the same probabilities everywhere.
///
/// ```no_run
/// use candle_core::Device;
/// use perceiver_train::{Checkpoint, Predictor};
///
/// let predictor = Predictor::new(Checkpoint::open("runs/mine", &Device::Cpu)?, None);
/// let image = predictor.decode(&std::fs::read("cat.jpg").unwrap(), "cat.jpg")?;
/// let probabilities = predictor.probabilities(&[image])?;
/// for top in predictor.top_classes(&probabilities[0], 5) {
///     println!("{:5.1}%  {}", 100.0 * top.probability, top.class);
/// }
/// # Ok::<(), perceiver_train::TrainError>(())
/// ```
#[derive(Debug)]
pub struct Predictor {
    checkpoint: Checkpoint,
    augmentation: TestTimeAugmentation,
}

impl Predictor {
    /// Creates a predictor that averages over the mirror image, or not; by default as in training.
    pub fn new(checkpoint: Checkpoint, flip_average: Option<bool>) -> Self {
        let as_in_training = checkpoint.config.data.flip_average;
        Self {
            augmentation: TestTimeAugmentation::new(flip_average.unwrap_or(as_in_training)),
            checkpoint,
        }
    }

    /// Returns the checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Returns the versions of an image that predictions are averaged over.
    pub fn augmentation(&self) -> TestTimeAugmentation {
        self.augmentation
    }

    /// Decodes an image file in memory as training decodes the images of folders; `origin` names it
    /// in errors.
    ///
    /// # Errors
    /// As for [`Image::decode_shrunk`].
    pub fn decode(&self, bytes: &[u8], origin: impl AsRef<Path>) -> Result<Image> {
        let side = self.checkpoint.config.shorter_side();
        Ok(Image::decode_shrunk(bytes, origin, side)?)
    }

    /// Returns the probability of every class for every image, `[images][classes]`.
    ///
    /// # Errors
    /// As for [`Checkpoint::classify`].
    pub fn probabilities(&self, images: &[Image]) -> Result<Vec<Vec<f32>>> {
        self.checkpoint.classify_by(self.augmentation, images)
    }

    /// [`Predictor::probabilities`] of images that [`Checkpoint::input_on_cpu`] has preprocessed,
    /// `[images, 3, side, side]`.
    ///
    /// # Errors
    /// As for [`Checkpoint::classify`].
    pub fn probabilities_of_input(&self, input: &Tensor) -> Result<Vec<Vec<f32>>> {
        self.checkpoint.classify_input(self.augmentation, input)
    }

    /// Returns the `k` most probable classes of an image in descending order.
    pub fn top_classes(
        &self,
        probabilities: &[f32],
        k: usize,
    ) -> impl Iterator<Item = ClassProbability<'_>> + use<'_> {
        top_classes(&self.checkpoint.config.classes, probabilities, k)
    }
}
