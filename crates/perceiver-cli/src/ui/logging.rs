//! Log output on standard error, above the progress bars.

use std::fmt::Write as _;
use std::io::{self, Write};
#[cfg(feature = "hub")]
use std::sync::LazyLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format;

use crate::ui::color::Colour;
use crate::ui::escape;
use crate::ui::terminal::AboveBars;

/// A log writer that removes access tokens, whatever a library or a server logs.
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

/// The crates whose steps `--verbose` logs.
const OURS: [&str; 7] = ["cli", "data", "hub", "model", "report", "serve", "train"];

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// A line for people per message.
    Text,
    /// A JSON object per message, with its time.
    Json,
}

/// Returns the log filter in `RUST_LOG` syntax.
fn filter(quiet: bool, verbose: u8) -> String {
    let (others, ours) = match (quiet, verbose) {
        (true, _) => ("warn", "warn"),
        (_, 0) => ("warn", "info"),
        (_, 1) => ("warn", "debug"),
        (_, 2) => ("info", "trace"),
        _ => ("debug", "trace"),
    };
    let mut filter = others.to_string();
    for name in OURS {
        let _ = write!(filter, ",perceiver_{name}={ours}"); // writing to a String cannot fail
    }
    filter
}

/// Starts logging. `RUST_LOG` takes precedence over the flags. A second call, as in tests, has no
/// effect.
///
/// Fields of a record, such as file names or server messages, are escaped to one harmless line.
pub(crate) fn start(quiet: bool, verbose: u8, colour: Colour, log_format: LogFormat) {
    let by_flags = |_| EnvFilter::new(filter(quiet, verbose));
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(by_flags);
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(WithoutTokens::new);
    if log_format == LogFormat::Json {
        let _ = log.json().flatten_event(true).try_init();
        return;
    }
    let fields = format::debug_fn(|writer, field, value| {
        let value = format!("{value:?}");
        let value = escape::line(&value);
        match field.name() {
            "message" => write!(writer, "{value}"),
            name => write!(writer, "{name}={value}"),
        }
    });
    let _ = log
        .with_ansi(colour.of_log())
        .with_target(false)
        .without_time()
        .fmt_fields(fields.delimited(" "))
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_v_raises_the_log_level() {
        let of = |quiet, verbose| filter(quiet, verbose);
        assert!(of(false, 0).contains("perceiver_train=info"));
        assert!(of(false, 1).starts_with("warn,") && of(false, 1).contains("perceiver_data=debug"));
        assert!(of(false, 2).starts_with("info,") && of(false, 2).contains("perceiver_hub=trace"));
        assert!(of(true, 0).contains("perceiver_cli=warn"));
    }
}
