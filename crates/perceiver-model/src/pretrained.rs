//! Models by name: architecture and weights from a directory, or from the Hugging Face Hub (feature `hub`).

use std::path::Path;

use candle_core::Device;
use perceiver_hub::{HubAccess, ModelPlace};
use serde::Deserialize;

use crate::config::PerceiverConfig;
use crate::error::{ModelError, Result};
use crate::foreign_config::foreign_config;
use crate::parameters::{Parameters, read_safetensors};
use crate::perceiver::Perceiver;

/// The part of a `config.json` that is about the architecture.
#[derive(Deserialize)]
struct Architecture {
    model: PerceiverConfig,
}

impl Perceiver {
    /// The model that `name` stands for, for inference: a directory with `config.json` and `model.safetensors`, or
    /// `USER/NAME` or `USER/NAME@REVISION` on the Hugging Face Hub, whose files are checked and kept in its cache. An existing
    /// directory goes before a name. How a picture becomes input, and what the classes are called, is
    /// `Checkpoint::from_pretrained`'s in `perceiver-train`.
    ///
    /// ```no_run
    /// use candle_core::{DType, Device, Tensor};
    /// use perceiver_model::Perceiver;
    /// use perceiver_ops::Mode;
    ///
    /// let model = Perceiver::from_pretrained("someone/perceiver@v1", &Device::Cpu)?;
    /// let size = model.config().image_size;
    /// let images = Tensor::zeros((1, 3, size, size), DType::F32, &Device::Cpu)?; // normalized already
    /// let logits = model.forward(&images, Mode::Inference)?; // [1, classes]
    /// # Ok::<(), perceiver_model::ModelError>(())
    /// ```
    ///
    /// # Errors
    /// [`ModelError::Hub`] when the Hub does not give the files as it announced them, and when they are no model's or do not fit
    /// each other.
    pub fn from_pretrained(name: &str, device: &Device) -> Result<Self> {
        Self::from_pretrained_with(name, &HubAccess::from_env(), device)
    }

    /// [`Perceiver::from_pretrained`] by another way to the Hub than the environment's.
    ///
    /// # Errors
    /// As [`Perceiver::from_pretrained`].
    pub fn from_pretrained_with(name: &str, access: &HubAccess, device: &Device) -> Result<Self> {
        let files = ["config.json", "model.safetensors"];
        let directory = ModelPlace::of(name)?.directory(access, &files, &[])?;
        let [config, weights] = files.map(|file| directory.join(file));
        let config = read_architecture(&config)?;
        config.validate()?;
        let tensors = read_safetensors(&weights)?;
        let loaded = Parameters::from_loaded_tensors(&config, tensors, device);
        let parameters = loaded.map_err(|error| ModelError::InFile {
            path: weights,
            source: Box::new(error),
        })?;
        parameters.inference_model(&config)
    }
}

fn read_architecture(path: &Path) -> Result<PerceiverConfig> {
    let wrong = |finding: String| ModelError::NoConfig {
        path: path.to_path_buf(),
        finding,
    };
    let text = perceiver_files::read_text(path).map_err(|error| wrong(error.to_string()))?;
    let read: Architecture = serde_json::from_str(&text).map_err(|error| {
        let foreign = foreign_config(text.as_bytes());
        wrong(foreign.unwrap_or_else(|| error.to_string()))
    })?;
    Ok(read.model)
}
