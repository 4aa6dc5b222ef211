//! Log lines for people: what happens, on standard error, above the progress bars.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::terminal::AboveBars;

/// Starts logging. `RUST_LOG` overrules the flags. A second call, as in tests, changes nothing.
pub(crate) fn start(quiet: bool, verbose: bool) {
    let default = match (quiet, verbose) {
        (true, _) => "warn",
        (_, true) => "info,perceiver_cli=debug,perceiver_data=debug,perceiver_train=debug",
        _ => "warn,perceiver_cli=info,perceiver_data=info,perceiver_train=info",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(AboveBars)
        .with_ansi(colour)
        .with_target(false)
        .without_time()
        .try_init();
}
