//! The `perceiver` program, as its own package builds it.

use std::process::ExitCode;

fn main() -> ExitCode {
    perceiver_cli::process_env::apply();
    perceiver_cli::run(std::env::args_os())
}
