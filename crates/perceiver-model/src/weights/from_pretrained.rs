//! Loads models by name, from a directory or from the Hugging Face Hub (feature `hub`).

use std::path::Path;

use candle_core::Device;
use perceiver_hub::{HubAccess, ModelSource};
use serde::Deserialize;

use crate::config::PerceiverConfig;
use crate::config::foreign::foreign_config;
use crate::error::{ModelError, Result};
use crate::perceiver::Perceiver;
use crate::weights::parameters::{Parameters, read_safetensors};

/// The architecture section of a `config.json`.
#[derive(Deserialize)]
struct Architecture {
    model: PerceiverConfig,
}

impl Perceiver {
    /// Loads a model for inference by `name`: a directory with `config.json` and
    /// `model.safetensors`, or `USER/NAME` or `USER/NAME@REVISION` on the Hugging Face Hub, whose
    /// files are verified and cached. An existing directory takes precedence. For preprocessing and
    /// class names, see `Checkpoint::from_pretrained` in `perceiver-train`.
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
    /// [`ModelError::Hub`] when the Hub does not provide the announced files; also when they are no
    /// model or do not fit together.
    pub fn from_pretrained(name: &str, device: &Device) -> Result<Self> {
        Self::from_pretrained_with(name, &HubAccess::from_env(), device)
    }

    /// Loads a model as [`Perceiver::from_pretrained`] does, with other access options than the
    /// environment's.
    ///
    /// # Errors
    /// As [`Perceiver::from_pretrained`].
    pub fn from_pretrained_with(name: &str, access: &HubAccess, device: &Device) -> Result<Self> {
        let files = ["config.json", "model.safetensors"];
        let directory = ModelSource::of(name)?.directory(access, &files, &[])?;
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
