//! Loads checkpoints by name, from a directory or from the Hugging Face Hub (feature `hub`).

use candle_core::Device;
use perceiver_hub::{HubAccess, ModelSource};

use crate::checkpoint::Checkpoint;
use crate::error::Result;

impl Checkpoint {
    /// Loads the checkpoint `name`: a directory, or `USER/NAME` or `USER/NAME@REVISION` on the
    /// Hugging Face Hub. Files of the Hub are verified and kept in its cache. An existing directory
    /// has precedence. The checkpoint may be one of transformers, with a Perceiver IO image
    /// classifier.
    ///
    /// ```no_run
    /// use candle_core::Device;
    /// use perceiver_data::Image;
    /// use perceiver_train::Checkpoint;
    ///
    /// let checkpoint = Checkpoint::from_pretrained("someone/perceiver", &Device::Cpu)?;
    /// let probabilities = checkpoint.classify(&[Image::open("cat.jpg")?])?;
    /// for (class, probability) in checkpoint.config.classes.iter().zip(&probabilities[0]) {
    ///     println!("{:5.1}%  {class}", 100.0 * probability);
    /// }
    /// # Ok::<(), perceiver_train::TrainError>(())
    /// ```
    ///
    /// # Errors
    /// [`TrainError::Hub`](crate::TrainError::Hub) when the Hub does not deliver the files as
    /// announced, and all errors of [`Checkpoint::open`].
    pub fn from_pretrained(name: &str, device: &Device) -> Result<Self> {
        Self::from_pretrained_with(name, &HubAccess::from_env(), device)
    }

    /// [`Checkpoint::from_pretrained`] with explicit Hub access instead of that from the
    /// environment.
    ///
    /// # Errors
    /// As for [`Checkpoint::from_pretrained`].
    pub fn from_pretrained_with(name: &str, access: &HubAccess, device: &Device) -> Result<Self> {
        let location = ModelSource::of(name)?;
        Self::open(&location.checkpoint(access, &[])?, device)
    }
}
