//! The same model in other frameworks.

use std::ffi::OsString;
use std::path::Path;

use super::workload::{Task, Workload};
use crate::error::{Result, XtaskError};

/// What the scripts import.
pub const MODULES: &str = "h5py, jax, keras, numpy, PIL, tensorflow, torch";

/// What to install for them.
pub const PACKAGES: &str = "keras tensorflow-cpu \"jax[cpu]\" torch numpy h5py pillow";

/// A framework.
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
    /// All of them.
    pub const ALL: [Self; 3] = [Self::KerasTensorflow, Self::KerasJax, Self::Torch];

    /// Its name in the report.
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
