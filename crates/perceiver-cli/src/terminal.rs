//! The one place that writes to standard output and standard error, and that progress bars and log lines share, so that neither
//! overwrites the other.
//!
//! What cannot be said on standard error, as on a full disk or a terminal that has gone, is dropped: it ends nothing. What cannot be
//! written to standard output is an error, as results are lost with it.

use std::fmt::{self, Display};
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::LazyLock;

use console::Term;
use indicatif::{
    HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
    TermLike,
};
use serde::Serialize;

use crate::escape;

/// How often a second bars are drawn: indicatif's own choice for terminals.
const FRAMES_A_SECOND: u8 = 20;

/// All bars of this program. Without a terminal they draw nothing.
static BARS: LazyLock<MultiProgress> = LazyLock::new(|| {
    let target = if io::stderr().is_terminal() {
        let terminal = Forgiving(Term::stderr());
        ProgressDrawTarget::term_like_with_hz(Box::new(terminal), FRAMES_A_SECOND)
    } else {
        ProgressDrawTarget::hidden()
    };
    MultiProgress::with_draw_target(target)
});

/// A terminal that may go away: indicatif would panic where one refuses.
#[derive(Debug)]
struct Forgiving(Term);

impl TermLike for Forgiving {
    fn width(&self) -> u16 {
        self.0.size().1
    }

    fn height(&self) -> u16 {
        self.0.size().0
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        let _ = self.0.move_cursor_up(n);
        Ok(())
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        let _ = self.0.move_cursor_down(n);
        Ok(())
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        let _ = self.0.move_cursor_right(n);
        Ok(())
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        let _ = self.0.move_cursor_left(n);
        Ok(())
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        let _ = self.0.write_line(line);
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        let _ = self.0.write_str(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        let _ = self.0.clear_line();
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

/// A bar of `length` drawn by an indicatif template, named `prefix`.
pub(crate) fn bar(length: u64, template: &str, prefix: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("left", left)
        .progress_chars("=> ");
    let bar = ProgressBar::new(length)
        .with_style(style)
        .with_prefix(escape::line(prefix).into_owned());
    BARS.add(bar)
}

/// The time that is left, `{left}` in a template; nothing before it is known.
fn left(state: &ProgressState, line: &mut dyn fmt::Write) {
    let eta = state.eta();
    if !eta.is_zero() {
        let _ = write!(line, " < {:#}", HumanDuration(eta)); // a bar that cannot be drawn is none
    }
}

/// Writes log lines to standard error above the bars. It never fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| drop(io::stderr().write_all(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}

/// Prints a line on standard error, whatever bars there are; for the end of the program, and for panics.
pub fn say(line: impl Display) {
    let line = format!("{}\n", escape::line(&line.to_string()));
    drop(io::stderr().write_all(line.as_bytes()));
}

/// Prints an error on standard error above the bars, in one line.
pub fn error(message: impl Display) {
    BARS.suspend(|| say(format_args!("error: {message}")));
}

/// Standard output takes no more.
#[derive(Debug)]
pub struct OutputError(io::Error);

impl OutputError {
    /// Whether its reader has gone, as `head` does when it has seen enough.
    pub fn is_unheard(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

impl Display for OutputError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot write to standard output: {}", self.0)
    }
}

impl std::error::Error for OutputError {}

/// Prints a result on standard output, a line or several.
///
/// # Errors
/// When it cannot be written; `println!` would panic.
pub fn print(result: impl Display) -> Result<(), OutputError> {
    let mut lines = escape::text(&result.to_string()).into_owned();
    lines.push('\n');
    write(lines.as_bytes())
}

/// Prints a result as JSON, on one line or, where `pretty`, on many.
///
/// # Errors
/// When it cannot be written, or is nothing that JSON can hold.
pub(crate) fn print_json(result: &impl Serialize, pretty: bool) -> anyhow::Result<()> {
    let json = if pretty {
        serde_json::to_string_pretty(result)?
    } else {
        serde_json::to_string(result)?
    };
    Ok(print(escape::json(&json))?)
}

/// Prints a path on standard output: for people escaped, for other programs as it is.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn print_path(path: &Path) -> Result<(), OutputError> {
    if io::stdout().is_terminal() {
        return print(escape::os(path.as_os_str()));
    }
    let mut line = path.as_os_str().as_encoded_bytes().to_vec();
    line.push(b'\n');
    write(&line)
}

/// Writes bytes to standard output, all of them and at once.
///
/// # Errors
/// When that is impossible.
pub(crate) fn write(bytes: &[u8]) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}
