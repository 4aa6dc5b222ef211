//! Log lines for people: what happens, on standard error, above the progress bars.

use tracing_subscriber::EnvFilter;

use crate::colour::Colour;
use crate::terminal::AboveBars;

/// Starts logging. `RUST_LOG` overrules the flags. A second call, as in tests, changes nothing.
pub(crate) fn start(quiet: bool, verbose: bool, colour: Colour) {
    let default = match (quiet, verbose) {
        (true, _) => "warn",
        (_, true) => "info,perceiver_cli=debug,perceiver_data=debug,perceiver_train=debug",
        _ => "warn,perceiver_cli=info,perceiver_data=info,perceiver_train=info",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(AboveBars)
        .with_ansi(colour.of_log())
        .with_target(false)
        .without_time()
        .try_init();
}
