//! Checkpoints by name: from a directory, or from the Hugging Face Hub (feature `hub`).

use candle_core::Device;
use perceiver_hub::{HubAccess, ModelPlace};

use crate::checkpoint::Checkpoint;
use crate::error::Result;

impl Checkpoint {
    /// The checkpoint that `name` stands for: a directory, or `USER/NAME` or `USER/NAME@REVISION` on the Hugging Face Hub, whose
    /// files are checked and kept in its cache. An existing directory goes before a name.
    ///
    /// ```no_run
    /// use candle_core::Device;
    /// use perceiver_data::Image;
    /// use perceiver_train::Checkpoint;
    ///
    /// let checkpoint = Checkpoint::from_pretrained("someone/perceiver", &Device::Cpu)?;
    /// let probabilities = checkpoint.classify(&[Image::open("cat.jpg".as_ref())?])?;
    /// for (class, probability) in checkpoint.config.classes.iter().zip(&probabilities[0]) {
    ///     println!("{:5.1}%  {class}", 100.0 * probability);
    /// }
    /// # Ok::<(), perceiver_train::TrainError>(())
    /// ```
    ///
    /// # Errors
    /// [`TrainError::Hub`](crate::TrainError::Hub) when the Hub does not give the files as it announced them, and all of
    /// [`Checkpoint::open`]'s.
    pub fn from_pretrained(name: &str, device: &Device) -> Result<Self> {
        Self::from_pretrained_with(name, &HubAccess::from_env(), device)
    }

    /// [`Checkpoint::from_pretrained`] by another way to the Hub than the environment's.
    ///
    /// # Errors
    /// As [`Checkpoint::from_pretrained`].
    pub fn from_pretrained_with(name: &str, access: &HubAccess, device: &Device) -> Result<Self> {
        let place = ModelPlace::of(name)?;
        Self::open(&place.directory(access, &Self::FILES, &[])?, device)
    }
}
