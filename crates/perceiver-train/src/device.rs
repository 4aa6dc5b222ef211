//! Device selection: CPU, CUDA or Metal.

use std::fmt;
use std::str::FromStr;

use candle_core::{Device, DeviceLocation};
use perceiver_ops::open_cuda;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};

/// A device as written in recipes and flags: `auto`, `cpu`, `cuda`, `cuda:1`, `metal`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The first GPU that this build supports and finds, or else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU, by index.
    Cuda(usize),
    /// An Apple GPU.
    Metal,
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// When the device is not available or this build does not support it.
    pub fn open(self) -> Result<Device> {
        let device = match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto => Ok(first_gpu().unwrap_or(Device::Cpu)),
            Self::Cuda(ordinal) => open_cuda(ordinal),
            Self::Metal => Device::new_metal(0),
        };
        device.map_err(|error| self.unavailable(&error))
    }

    /// Opens the device of the rank with index `local` on its host. GPUs are assigned to ranks in
    /// turn, from the chosen one on; with more ranks than GPUs, ranks share them.
    ///
    /// # Errors
    /// As for [`DeviceChoice::open`].
    pub fn open_for(self, local: usize) -> Result<Device> {
        self.for_rank(local, gpus()).open()
    }

    fn for_rank(self, local: usize, gpus: usize) -> Self {
        match self {
            Self::Auto if gpus > 0 => Self::Cuda(local % gpus),
            Self::Cuda(first) if gpus > 0 => Self::Cuda((first + local) % gpus),
            other => other,
        }
    }

    fn unavailable(self, error: &candle_core::Error) -> TrainError {
        let feature = if self == Self::Metal { "metal" } else { "cuda" };
        TrainError::Device {
            device: self.to_string(),
            expected: format!("an available device and a build with --features {feature}"),
            finding: error.to_string(),
        }
    }
}

impl From<&Device> for DeviceChoice {
    /// Returns the choice that opens this device.
    fn from(device: &Device) -> Self {
        match device.location() {
            DeviceLocation::Cpu => Self::Cpu,
            DeviceLocation::Cuda { gpu_id } => Self::Cuda(gpu_id),
            DeviceLocation::Metal { .. } => Self::Metal,
        }
    }
}

/// Returns the number of NVIDIA GPUs visible to this process.
#[cfg(feature = "cuda")]
fn gpus() -> usize {
    let count = candle_core::cuda_backend::cudarc::driver::CudaContext::device_count();
    usize::try_from(count.unwrap_or(0)).unwrap_or(0)
}

#[cfg(not(feature = "cuda"))]
const fn gpus() -> usize {
    0
}

/// Returns the first available GPU that this build supports.
fn first_gpu() -> Option<Device> {
    let built_for_cuda = candle_core::utils::cuda_is_available();
    let cuda = built_for_cuda.then(|| open_cuda(0).ok()).flatten();
    let metal = || {
        let built_for_metal = candle_core::utils::metal_is_available();
        built_for_metal.then(|| Device::new_metal(0).ok()).flatten()
    };
    cuda.or_else(metal)
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || TrainError::Device {
            device: text.to_string(),
            expected: "auto, cpu, cuda, cuda:N or metal".to_string(),
            finding: format!("{text:?}"),
        };
        match text.split_once(':') {
            None => match text {
                "auto" => Ok(Self::Auto),
                "cpu" => Ok(Self::Cpu),
                "cuda" => Ok(Self::Cuda(0)),
                "metal" => Ok(Self::Metal),
                _ => Err(unknown()),
            },
            Some(("cuda", ordinal)) => ordinal.parse().map(Self::Cuda).map_err(|_| unknown()),
            Some(_) => Err(unknown()),
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = TrainError;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_choice_round_trips_as_text() {
        for text in ["auto", "cpu", "cuda:0", "cuda:3", "metal"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        assert_eq!(
            "cuda".parse::<DeviceChoice>().unwrap(),
            DeviceChoice::Cuda(0)
        );
    }

    #[test]
    fn gpus_of_a_host_are_assigned_to_its_ranks() {
        let ranks =
            |choice: DeviceChoice, gpus| [0, 1, 2].map(|local| choice.for_rank(local, gpus));
        let cuda = |numbers: [usize; 3]| numbers.map(DeviceChoice::Cuda);
        assert_eq!(ranks(DeviceChoice::Auto, 4), cuda([0, 1, 2]));
        assert_eq!(ranks(DeviceChoice::Cuda(1), 3), cuda([1, 2, 0]));
        assert_eq!(ranks(DeviceChoice::Cuda(0), 1), cuda([0; 3])); // each rank may see one GPU only
        let none = [DeviceChoice::Auto; 3];
        assert_eq!(ranks(DeviceChoice::Auto, 0), none);
        assert_eq!(ranks(DeviceChoice::Cpu, 4), [DeviceChoice::Cpu; 3]);
    }

    #[test]
    fn unknown_device_errors_list_the_known_ones() {
        for text in ["gpu", "cuda:x", "cuda:-1", "cpu:0", ""] {
            let error = text.parse::<DeviceChoice>().unwrap_err().to_string();
            assert!(
                error.contains("expected auto, cpu, cuda, cuda:N or metal"),
                "{error}"
            );
        }
    }
}
