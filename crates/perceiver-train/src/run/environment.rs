//! `training/environment.json`: the machine and program that trained a run.

use std::path::Path;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::device::DeviceChoice;
use crate::error::Result;
use crate::run::json_file;

/// The program and machine that a run was started or last resumed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// The version of the program.
    pub version: String,
    /// The operating system, such as `linux`.
    pub system: String,
    /// The CPU architecture, such as `x86_64`.
    pub architecture: String,
    /// The name of the processor, if the system reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processor: Option<String>,
    /// The number of processor cores available to this program.
    pub cores: usize,
    /// The device: `cpu`, `cuda:0`, `metal`.
    pub device: String,
}

impl Environment {
    /// Describes this program on this machine, computing on `device`.
    pub fn here(device: &Device) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_string(),
            system: std::env::consts::OS.to_string(),
            architecture: std::env::consts::ARCH.to_string(),
            processor: processor(),
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            device: DeviceChoice::from(device).to_string(),
        }
    }

    /// Reads an `environment.json`.
    ///
    /// # Errors
    /// When it is missing or not ours.
    pub fn read(path: &Path) -> Result<Self> {
        json_file::read(path, "the environment of a run")
    }

    /// Writes an `environment.json`, atomically replacing an old one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        json_file::write(path, self)
    }
}

/// Returns the name of the first processor on Linux; none on other systems.
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':')
        .map(|(_, name)| name.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("environment.json");
        let here = Environment::here(&Device::Cpu);
        assert!(here.cores >= 1 && here.device == "cpu");
        here.write(&path).unwrap();
        assert_eq!(Environment::read(&path).unwrap(), here);
    }
}
