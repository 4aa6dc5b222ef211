//! The one place that progress bars and log lines share, so that neither overwrites the other.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// All bars of this program. Without a terminal they draw nothing.
static BARS: LazyLock<MultiProgress> = LazyLock::new(|| {
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    MultiProgress::with_draw_target(target)
});

/// A bar of `length` drawn by an indicatif template.
pub(crate) fn bar(length: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    BARS.add(ProgressBar::new(length).with_style(style))
}

/// Writes log lines to standard error above the bars.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Prints a message on standard error above the bars.
pub(crate) fn above_bars(message: impl Display) {
    BARS.suspend(|| eprintln!("{message}"));
}

/// Prints a result on standard output, a line or several.
///
/// # Errors
/// When nobody listens any more, as at the end of a pipe into `head`; `println!` would panic.
pub(crate) fn print(result: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{result}")
}
