//! Checks a given Python interpreter.

use std::process::Command;

/// Checks that `python` can import `modules`; the error says why not.
pub(crate) fn check(python: &str, modules: &str) -> Result<(), String> {
    let import = format!("import {modules}");
    match Command::new(python).args(["-c", &import]).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            let last = text.lines().last();
            Err(last.unwrap_or("it failed without output").to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}
