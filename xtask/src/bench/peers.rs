//! The same model in other frameworks.

use std::ffi::OsString;
use std::path::Path;

use perceiver_train::DeviceChoice;

use super::workload::{Task, Workload};
use crate::error::{Result, XtaskError};

/// A framework and backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Keras on TensorFlow.
    KerasTensorflow,
    /// Keras on JAX.
    KerasJax,
    /// `PyTorch`, compiled.
    Torch,
}

impl Peer {
    /// Returns the peers on a device. Keras's packages are installed for the CPU, so it runs only
    /// there.
    pub const fn on(device: DeviceChoice) -> &'static [Self] {
        match device {
            DeviceChoice::Cpu => &[Self::KerasTensorflow, Self::KerasJax, Self::Torch],
            DeviceChoice::Auto | DeviceChoice::Cuda(_) | DeviceChoice::Metal => &[Self::Torch],
        }
    }

    /// Returns the modules that the scripts import, and the packages to install.
    pub const fn needs(device: DeviceChoice) -> [&'static str; 2] {
        match device {
            DeviceChoice::Cpu => [
                "h5py, jax, keras, numpy, PIL, tensorflow, torch",
                "keras tensorflow-cpu \"jax[cpu]\" torch numpy h5py pillow",
            ],
            DeviceChoice::Auto | DeviceChoice::Cuda(_) | DeviceChoice::Metal => ["torch", "torch"],
        }
    }

    /// Returns the name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::KerasTensorflow => "keras-tensorflow",
            Self::KerasJax => "keras-jax",
            Self::Torch => "pytorch-compiled",
        }
    }

    pub(super) fn arguments(self, scripts: &Path, workload: &Workload) -> Result<Vec<OsString>> {
        let script = match self {
            Self::KerasTensorflow | Self::KerasJax => "keras_speed.py",
            Self::Torch => "torch_speed.py",
        };
        let task = match workload.task {
            Task::Train => "train",
            _ => "infer",
        };
        let config = serde_json::to_string(&workload.recipe()?.model).map_err(|error| {
            XtaskError::Contestant {
                name: self.name().to_owned(),
                command: script.to_owned(),
                finding: error.to_string(),
            }
        })?;
        let numbers = [workload.batch()?, workload.steps].map(|n| n.to_string());
        let mut arguments = vec![scripts.join(script).into_os_string()];
        arguments.extend([task, &config, &numbers[0], &numbers[1]].map(OsString::from));
        if self == Self::Torch {
            let device = workload.device.to_string();
            arguments.extend([device, workload.precision.to_string()].map(OsString::from));
        }
        Ok(arguments)
    }

    pub(super) fn environment(self) -> Vec<(&'static str, &'static str)> {
        match self {
            Self::KerasTensorflow => vec![
                ("KERAS_BACKEND", "tensorflow"),
                ("TF_CPP_MIN_LOG_LEVEL", "3"),
            ],
            Self::KerasJax => vec![("KERAS_BACKEND", "jax"), ("JAX_PLATFORMS", "cpu")],
            Self::Torch => Vec::new(),
        }
    }
}
