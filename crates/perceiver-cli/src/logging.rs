//! Log lines for people: what happens, on standard error, above the progress bars.

use std::io::{self, Write};
#[cfg(feature = "hub")]
use std::sync::LazyLock;

use tracing_subscriber::EnvFilter;

use crate::colour::Colour;
use crate::terminal::AboveBars;

/// Writes log lines in which no access token is left, whatever a library or a server puts into them.
struct WithoutTokens(AboveBars);

impl WithoutTokens {
    fn new() -> Self {
        Self(AboveBars)
    }
}

impl Write for WithoutTokens {
    #[cfg(feature = "hub")]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        static TOKEN: LazyLock<Option<String>> = LazyLock::new(perceiver_hub::token_from_env);
        let line = String::from_utf8_lossy(bytes);
        let clean = perceiver_hub::without_tokens(&line, TOKEN.as_deref());
        self.0.write_all(clean.as_bytes())?;
        Ok(bytes.len())
    }

    #[cfg(not(feature = "hub"))]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Starts logging. `RUST_LOG` overrules the flags. A second call, as in tests, changes nothing.
pub(crate) fn start(quiet: bool, verbose: bool, colour: Colour) {
    let default = match (quiet, verbose) {
        (true, _) => "warn",
        (_, true) => {
            "info,perceiver_cli=debug,perceiver_data=debug,perceiver_hub=debug,perceiver_train=debug"
        }
        _ => "warn,perceiver_cli=info,perceiver_data=info,perceiver_hub=info,perceiver_train=info",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(WithoutTokens::new)
        .with_ansi(colour.of_log())
        .with_target(false)
        .without_time()
        .try_init();
}
