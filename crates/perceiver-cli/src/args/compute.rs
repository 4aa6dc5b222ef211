//! `--device` and `--precision` of the commands that run a trained model.

use anyhow::Result;
use perceiver_train::{Checkpoint, DeviceChoice, Precision};

use crate::runtime::kernels::log_bf16;

/// Where and how precisely to compute.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct ComputeFlags {
    /// Device to compute on: auto, cpu, cuda, cuda:N or metal.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: DeviceChoice,

    /// Compute precision: f32, bf16, or on an NVIDIA GPU tf32.
    #[arg(long, value_name = "PRECISION", default_value = "f32")]
    precision: Precision,
}

impl ComputeFlags {
    /// Returns a checkpoint, opened on the device, in the precision, and logs what multiplies.
    pub(crate) fn in_precision(self, checkpoint: Checkpoint) -> Result<Checkpoint> {
        let checkpoint = checkpoint.in_precision(self.precision)?;
        log_bf16(checkpoint.device(), self.precision);
        Ok(checkpoint)
    }
}
