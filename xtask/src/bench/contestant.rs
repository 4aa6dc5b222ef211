//! A process of a benchmark. It repeats its work without end and prints a line after each step, or
//! measures itself and prints a [`Sample`](super::worker::Sample) as its last line.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use serde::de::DeserializeOwned;

use super::peers::Peer;
use super::workload::Workload;
use crate::error::{Result, XtaskError};

/// A contestant of a benchmark, and its command.
#[derive(Clone, Debug)]
pub struct Contestant {
    /// The name in the report: that of the program and of its precision.
    pub name: String,
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, &'static str)>,
}

/// The name of our own program in reports.
pub const OURS: &str = "perceiver";

impl Contestant {
    /// Creates our own contestant: this program with the hidden subcommand `bench-worker`.
    pub fn ours(workload: &Workload) -> Self {
        Self::named(format!("{OURS}-{}", workload.precision), workload)
    }

    /// Creates a contestant with our own work and another name.
    pub(super) fn named(name: String, workload: &Workload) -> Self {
        let program = std::env::current_exe().map_or_else(|_| "xtask".into(), OsString::from);
        let arguments = std::iter::once("bench-worker".to_owned()).chain(workload.arguments());
        Self {
            name,
            program,
            arguments: arguments.map(OsString::from).collect(),
            environment: Vec::new(),
        }
    }

    /// Creates a peer's contestant, with the same model and batch.
    ///
    /// # Errors
    /// When the workload's recipe is invalid.
    pub fn peer(peer: Peer, python: &str, scripts: &Path, workload: &Workload) -> Result<Self> {
        Ok(Self {
            name: format!("{}-{}", peer.name(), workload.precision),
            program: python.into(),
            arguments: peer.arguments(scripts, workload)?,
            environment: peer.environment(),
        })
    }

    /// Returns the command that starts the process.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().copied());
        command
    }

    /// Returns an error about this contestant.
    pub(super) fn failed(&self, finding: String) -> XtaskError {
        XtaskError::Contestant {
            name: self.name.clone(),
            command: self.program.to_string_lossy().into_owned(),
            finding,
        }
    }

    /// Runs the process to its end and parses its measurements.
    ///
    /// # Errors
    /// When it cannot be started, fails, or prints something else.
    pub fn run<S: DeserializeOwned>(&self) -> Result<S> {
        let failed = |finding: String| self.failed(finding);
        let output = self
            .command()
            .output()
            .map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let tail: Vec<_> = stderr.lines().rev().take(5).collect();
            let tail: Vec<_> = tail.into_iter().rev().collect();
            return Err(failed(format!("{}\n{}", output.status, tail.join("\n"))));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().last().unwrap_or_default();
        serde_json::from_str(line).map_err(|_| {
            failed(format!(
                "expected a JSON object as its last line, found {line:?}"
            ))
        })
    }
}

#[cfg(test)]
impl Contestant {
    /// Creates a contestant that runs a shell script.
    pub(super) fn shell(name: &str, script: &str) -> Self {
        Self {
            name: name.into(),
            program: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::worker::Sample;

    fn shell(script: &str) -> Contestant {
        Contestant::shell("shell", script)
    }

    #[test]
    fn the_last_line_is_the_sample() {
        let line = r#"{"amount":4.0,"seconds":[2.0,1.0],"peak_rss_bytes":null}"#;
        let sample: Sample = shell(&format!("echo chatter; echo '{line}'"))
            .run()
            .unwrap();
        assert_eq!(sample.per_second().collect::<Vec<_>>(), [2.0, 4.0]);
    }

    #[test]
    fn failures_include_the_standard_error_of_the_process() {
        let error = shell("echo no such module >&2; exit 3")
            .run::<Sample>()
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("shell") && text.contains("no such module"),
            "{text}"
        );
        let error = shell("echo 12 img/s")
            .run::<Sample>()
            .unwrap_err()
            .to_string();
        assert!(error.contains("found \"12 img/s\""), "{error}");
    }
}
