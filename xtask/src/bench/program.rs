//! The `perceiver` command itself, for benchmarks of whole processes.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use perceiver_train::DeviceChoice;

use super::contestant::OURS;
use crate::cargo::cargo;
use crate::error::{Result, XtaskError};

/// Builds the program as `cargo run -p perceiver-cli` does with these `flags`, and returns its
/// path.
///
/// # Errors
/// When the build fails.
pub(crate) fn build(flags: &[&str]) -> Result<PathBuf> {
    let arguments = [&["build", "--package=perceiver-cli"], flags].concat();
    let failed = |finding: String| XtaskError::Contestant {
        name: OURS.to_owned(),
        command: format!("cargo {}", arguments.join(" ")),
        finding,
    };
    let output = cargo()
        .args(&arguments)
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut programs = messages.filter(|message| message["target"]["name"] == "perceiver");
    programs
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| failed(format!("{}, and no program was named", output.status)))
}

/// Returns the Cargo flags that build the program for a device.
pub(crate) const fn features(device: DeviceChoice) -> &'static [&'static str] {
    match device {
        DeviceChoice::Cuda(_) => &["--features=cuda"],
        DeviceChoice::Metal => &["--features=metal"],
        DeviceChoice::Cpu | DeviceChoice::Auto => &[],
    }
}

/// Runs a command of the contestant `name` to its end.
///
/// # Errors
/// When it cannot be started or fails, with its output.
pub(super) fn run(name: &str, command: &mut Command) -> Result<Output> {
    let finding = match command.output() {
        Ok(output) if output.status.success() => return Ok(output),
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            format!("{}\n{stderr}", output.status)
        }
        Err(error) => error.to_string(),
    };
    Err(XtaskError::Contestant {
        name: name.to_owned(),
        command: command.get_program().to_string_lossy().into_owned(),
        finding,
    })
}
