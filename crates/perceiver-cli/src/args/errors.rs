//! Argument errors: exit code 2, as nothing has been done. clap finds most of them; these are found
//! later.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Error;
use clap::error::ContextValue;

use crate::ui::escape;
use crate::ui::terminal::{self, OutputError};

/// The exit code for invalid arguments.
pub(crate) const USAGE_ERROR: u8 = 2;

/// An error in the arguments.
#[derive(Debug)]
pub(crate) struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Converts an error to one in the arguments.
pub(crate) fn usage_error(error: impl Into<Error>) -> Error {
    UsageError(crate::in_one_line(&error.into())).into()
}

/// Parses a count of at least 1, for `value_parser`.
pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    at_least(1, text)
}

/// Parses a count of at least 2, for `value_parser`.
pub(crate) fn at_least_two(text: &str) -> Result<usize, String> {
    at_least(2, text)
}

fn at_least(least: usize, text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number < least => Err(format!("expected at least {least}")),
        Ok(number) => Ok(number),
        Err(_) => Err(format!("expected an integer of at least {least}")),
    }
}

/// Parses a number above 0, for `value_parser`.
pub(crate) fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok();
    // Recipes store an f32, which has a smaller range.
    let fits = |number: &f64| (*number as f32).is_finite() && *number as f32 > 0.0;
    number
        .filter(fits)
        .ok_or_else(|| "expected a number above 0".to_string())
}

/// Prints a clap error and returns the exit code. Help and version go to standard output with
/// success; everything else is an argument error.
pub fn show(error: clap::Error, has_colours: bool) -> ExitCode {
    if !error.use_stderr() {
        let printed = error.print().and_then(|()| io::stdout().flush());
        return match printed.map_err(OutputError::from) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
            Err(error) => {
                terminal::error(error);
                ExitCode::FAILURE
            }
        };
    }
    let code = u8::try_from(error.exit_code()).unwrap_or(USAGE_ERROR);
    let rendered = escaped_values(error).render();
    let text = if has_colours {
        rendered.ansi().to_string()
    } else {
        rendered.to_string()
    };
    drop(io::stderr().write_all(without_commands(&text).as_bytes()));
    ExitCode::from(code)
}

/// Escapes the argument values in an error, typed or from a shell glob, to one line each.
fn escaped_values(mut error: clap::Error) -> clap::Error {
    let context: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| {
            let value = match value {
                ContextValue::String(text) => ContextValue::String(escape::line(text).into_owned()),
                ContextValue::Strings(texts) => {
                    let texts = texts.iter().map(|text| escape::line(text).into_owned());
                    ContextValue::Strings(texts.collect())
                }
                _ => return None,
            };
            Some((kind, value))
        })
        .collect();
    for (kind, value) in context {
        error.insert(kind, value);
    }
    error
}

/// Escapes every terminal control sequence except colors (`ESC [ digits m`).
fn without_commands(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let mut out = escape::text(parts.next().unwrap_or_default()).into_owned();
    for part in parts {
        let after = part
            .strip_prefix('[')
            .map(|codes| codes.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';'));
        let is_colour = after.is_some_and(|after| after.starts_with('m'));
        out.push_str(if is_colour { "\u{1b}" } else { r"\u{1b}" });
        out.push_str(&escape::text(part));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_color_escapes_are_kept() {
        let text = "\u{1b}[1;31merror:\u{1b}[0m \u{1b}[2J\u{7}x\n\u{1b}";
        assert_eq!(
            without_commands(text),
            "\u{1b}[1;31merror:\u{1b}[0m \\u{1b}[2J\\u{7}x\n\\u{1b}"
        );
    }

    #[test]
    fn numbers_out_of_range_are_rejected() {
        assert_eq!(at_least_one("1"), Ok(1));
        assert_eq!(at_least_one("0").unwrap_err(), "expected at least 1");
        assert_eq!(at_least_two("1").unwrap_err(), "expected at least 2");
        assert!(at_least_one("-1").unwrap_err().contains("integer"));
        assert_eq!(positive("1e-3"), Ok(0.001));
        for text in ["0", "-1", "nan", "inf", "1e300", "1e-300", "x", ""] {
            assert_eq!(positive(text).unwrap_err(), "expected a number above 0");
        }
    }
}
