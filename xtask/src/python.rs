//! Checks a given Python interpreter.

use std::process::Command;

/// Checks that `python` can import `modules` with some environment variables; the error says why
/// not.
pub(crate) fn check(
    python: &str,
    modules: &str,
    environment: &[(&str, &str)],
) -> Result<(), String> {
    let import = format!("import {modules}");
    let mut command = Command::new(python);
    command
        .args(["-c", &import])
        .envs(environment.iter().copied());
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            let last = text.lines().last();
            Err(last.unwrap_or("it failed without output").to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}
