//! The `perceiver` command. All code is in the library, so that tests run the same program.

use std::process::ExitCode;

fn main() -> ExitCode {
    perceiver_cli::process_env::apply();
    perceiver_cli::run(std::env::args_os())
}
