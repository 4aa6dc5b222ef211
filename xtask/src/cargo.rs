//! Cargo, as it started this program.

use std::path::Path;
use std::process::Command;

use crate::error::{Result, XtaskError};

/// Returns the cargo command, without arguments. It drops the variables that `cargo xtask` sets for
/// this crate, which would make build scripts run again.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let is_of_crate = |prefix: &&str| name.to_string_lossy().starts_with(*prefix);
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(is_of_crate) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs cargo in `folder` and returns what it prints.
///
/// # Errors
/// [`XtaskError::Cargo`] when it cannot be started or fails, with what it prints about that.
pub fn cargo_output(folder: &Path, arguments: &[&str]) -> Result<String> {
    let failed = |finding: String| XtaskError::Cargo {
        command: arguments.join(" "),
        finding,
    };
    let output = cargo().current_dir(folder).args(arguments).output();
    let output = output.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
