//! Terminal output: the only module that writes to standard output and standard error, beside the
//! view in the terminal, which holds back bars and log lines while it is on. Progress bars and log
//! lines share it, so that neither overwrites the other.
//!
//! Failed writes to standard error, as on a full disk or a closed terminal, are ignored and end
//! nothing. A failed write to standard output is an error, because results are lost.

use std::collections::VecDeque;
use std::fmt::{self, Display};
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use console::Term;
use indicatif::{
    HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
    TermLike,
};
use serde::Serialize;

use crate::ui::escape;

/// The frame rate of bars per second: indicatif's default for terminals.
const FRAMES_A_SECOND: u8 = 20;

/// All progress bars of this program. Without a terminal they are hidden.
static BARS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(bars_target()));

fn bars_target() -> ProgressDrawTarget {
    if io::stderr().is_terminal() {
        let terminal = Forgiving(Term::stderr());
        ProgressDrawTarget::term_like_with_hz(Box::new(terminal), FRAMES_A_SECOND)
    } else {
        ProgressDrawTarget::hidden()
    }
}

/// The most log lines that are held back; older ones are dropped.
const MOST_HELD: usize = 10_000;

/// The log lines that are held back while a view has the terminal.
static HELD: Mutex<Option<VecDeque<String>>> = Mutex::new(None);

fn held() -> MutexGuard<'static, Option<VecDeque<String>>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds back bars and log lines, for a view that has the terminal.
#[cfg(feature = "tui")]
pub(crate) fn hold() {
    BARS.set_draw_target(ProgressDrawTarget::hidden());
    held().get_or_insert_default();
}

/// Returns the last log lines that are held back, with their colors.
#[cfg(feature = "tui")]
pub(crate) fn held_lines(most: usize) -> Vec<String> {
    let held = held();
    let lines = held.iter().flatten();
    let skipped = held.as_ref().map_or(0, VecDeque::len).saturating_sub(most);
    lines.skip(skipped).cloned().collect()
}

/// Prints the log lines that were held back, and shows bars again.
#[cfg(feature = "tui")]
pub(crate) fn release() {
    let Some(lines) = held().take() else {
        return;
    };
    for line in lines {
        drop(io::stderr().write_all(line.as_bytes()));
    }
    BARS.set_draw_target(bars_target());
}

/// A terminal that ignores write errors, on which indicatif would panic.
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

/// Creates a bar of `length` with an indicatif template and the label `prefix`.
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

/// Writes the remaining time, `{left}` in a template; nothing before it is known.
fn left(state: &ProgressState, line: &mut dyn fmt::Write) {
    let eta = state.eta();
    if !eta.is_zero() {
        let _ = write!(line, ", ETA {:#}", HumanDuration(eta)); // no bar if drawing fails
    }
}

/// A writer of log lines to standard error, above the bars. It never fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(lines) = held().as_mut() {
            if lines.len() >= MOST_HELD {
                lines.pop_front();
            }
            lines.push_back(String::from_utf8_lossy(bytes).into_owned());
            return Ok(bytes.len());
        }
        BARS.suspend(|| drop(io::stderr().write_all(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}

/// Prints a line to standard error without regard to bars: for the end of the program, and for
/// panics.
pub fn print_stderr(line: impl Display) {
    let line = format!("{}\n", escape::line(&line.to_string()));
    drop(io::stderr().write_all(line.as_bytes()));
}

/// Prints an error to standard error above the bars, in one line.
pub fn error(message: impl Display) {
    BARS.suspend(|| print_stderr(format_args!("error: {message}")));
}

/// A failed write to standard output.
#[derive(Debug)]
pub struct OutputError(io::Error);

impl OutputError {
    /// Whether the error is a broken pipe, as from `head`.
    pub fn is_broken_pipe(&self) -> bool {
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

/// Prints a result of one or more lines to standard output.
///
/// # Errors
/// When writing fails; `println!` would panic.
pub fn print(result: impl Display) -> Result<(), OutputError> {
    let mut lines = escape::text(&result.to_string()).into_owned();
    lines.push('\n');
    write(lines.as_bytes())
}

/// Prints a result as JSON, on one line or, if `pretty`, indented.
///
/// # Errors
/// When writing fails, or the value cannot be represented in JSON.
pub(crate) fn print_json(result: &impl Serialize, pretty: bool) -> anyhow::Result<()> {
    let json = if pretty {
        serde_json::to_string_pretty(result)?
    } else {
        serde_json::to_string(result)?
    };
    Ok(print(escape::json(&json))?)
}

/// Prints a path to standard output: escaped on a terminal, verbatim otherwise.
///
/// # Errors
/// When writing fails.
pub(crate) fn print_path(path: &Path) -> Result<(), OutputError> {
    if io::stdout().is_terminal() {
        return print(escape::os(path.as_os_str()));
    }
    let mut line = path.as_os_str().as_encoded_bytes().to_vec();
    line.push(b'\n');
    write(&line)
}

/// Writes all bytes to standard output and flushes it.
///
/// # Errors
/// When writing fails.
pub(crate) fn write(bytes: &[u8]) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}
