//! Opening a checkpoint, with a way out when it is none.

use std::path::Path;

use anyhow::{Context, Result};
use perceiver_train::{Checkpoint, DeviceChoice};

/// Opens the checkpoint in `directory` on a device.
pub(crate) fn open(directory: &Path, device: DeviceChoice) -> Result<Checkpoint> {
    let device = device.open()?;
    Checkpoint::open(directory, &device).with_context(|| {
        format!(
            "--checkpoint {}: expected a directory with config.json and model.safetensors, as `perceiver train` makes it",
            directory.display()
        )
    })
}
