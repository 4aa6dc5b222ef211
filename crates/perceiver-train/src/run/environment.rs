//! `training/environment.json`: the machine and program that trained a run.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::device::DeviceChoice;
use crate::error::Result;
use crate::run::json_file;
use crate::run::shell::shell_quoted;

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
    /// The time at which the run was started, in UTC, such as `2026-01-31T12:00:00Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// The git commit of the directory in which the run was started, with `-dirty` if files
    /// differed from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The command that started the run, quoted for a shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
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
            started: None,
            commit: None,
            command: None,
        }
    }

    /// Adds the time, the git commit and the command of a start now; if `before`, the file of a run
    /// to resume, has its start, keeps that instead.
    #[must_use]
    pub fn started_now(self, before: &Path) -> Self {
        if let Ok(before) = Self::read(before)
            && before.started.is_some()
        {
            let Self {
                started,
                commit,
                command,
                ..
            } = before;
            return Self {
                started,
                commit,
                command,
                ..self
            };
        }
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        Self {
            started: Some(now.to_string()),
            commit: git_commit(),
            command: Some(command()),
            ..self
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

/// Returns the git commit of the working directory; none outside of a repository or without git.
fn git_commit() -> Option<String> {
    let describe = [
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ];
    let output = Command::new("git")
        .args(describe)
        .stdin(Stdio::null())
        .output();
    let output = output.ok().filter(|output| output.status.success())?;
    let commit = String::from_utf8(output.stdout).ok()?.trim().to_string();
    (!commit.is_empty()).then_some(commit)
}

/// Returns the command of this process, with the name of the program instead of its path.
fn command() -> String {
    let mut words = std::env::args_os();
    let program = words.next().unwrap_or_default();
    let program = Path::new(&program).file_name().unwrap_or_default();
    let program = shell_quoted(program);
    let words = words.map(shell_quoted);
    std::iter::once(program)
        .chain(words)
        .collect::<Vec<_>>()
        .join(" ")
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

        let started = here.clone().started_now(&path);
        assert!(
            started
                .started
                .as_ref()
                .is_some_and(|time| time.ends_with('Z'))
        );
        assert!(started.command.is_some());
        let first = Environment {
            started: Some("2026-01-31T12:00:00Z".to_string()),
            command: Some("first".to_string()),
            ..here.clone()
        };
        first.write(&path).unwrap();
        assert_eq!(
            here.started_now(&path),
            first,
            "a resumed run keeps its start"
        );
    }
}
