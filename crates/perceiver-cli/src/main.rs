//! The `perceiver` command. Everything is in the library, so that tests can run the very same program.

use std::process::ExitCode;

fn main() -> ExitCode {
    perceiver_cli::process_settings::apply();
    perceiver_cli::run(std::env::args_os())
}
