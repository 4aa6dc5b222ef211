//! Opening a checkpoint, with a way out when it is none.

use std::path::Path;

use anyhow::{Context, Result};
use perceiver_train::{Checkpoint, DeviceChoice, RunDirectory};

/// Opens the checkpoint in `directory` on a device.
pub(crate) fn open(directory: &Path, device: DeviceChoice) -> Result<Checkpoint> {
    let device = device.open()?;
    let shown = directory.display();
    Checkpoint::open(directory, &device).with_context(|| match RunDirectory::open(directory) {
        Ok(run) if run.state().exists() => format!(
            "--checkpoint {shown}: `perceiver train --resume {shown}` writes config.json and model.safetensors again"
        ),
        _ => format!(
            "--checkpoint {shown}: expected a directory with config.json and model.safetensors, as `perceiver train` makes it"
        ),
    })
}
