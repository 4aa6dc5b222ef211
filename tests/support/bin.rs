//! The `perceiver` program, built from the same library as in its own package.

use std::process::ExitCode;

fn main() -> ExitCode {
    perceiver_cli::process_env::apply();
    perceiver_cli::run(std::env::args_os())
}
