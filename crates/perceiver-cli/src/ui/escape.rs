//! Escapes untrusted text for a terminal: names of files and classes, server messages, text in an
//! archive.
//!
//! A terminal interprets some characters as commands, and a newline in a name breaks a line in two.
//! All output for people is escaped here: [`line()`] for text within a line, [`text`] for whole
//! texts with their own newlines. JSON for other programs keeps every character, as JSON escapes.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::Write as _;

/// Whether a character could mislead a terminal or a reader: control characters, changes of text
/// direction, line separators, and invisible characters.
pub fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}'
                | '\u{200b}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'
                | '\u{2066}'..='\u{2069}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Escapes text for one line, with unsafe characters in Rust syntax: `\n`, `\u{1b}`.
///
/// ```
/// use perceiver_cli::escape::line;
///
/// assert_eq!(line("a\nerror: b\u{1b}[2J"), r"a\nerror: b\u{1b}[2J");
/// assert_eq!(line("ein schönes Bild.png"), "ein schönes Bild.png");
/// ```
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_unsafe, |out, character| {
        out.extend(character.escape_default());
    })
}

/// Escapes text of several lines; newlines and tabs stay.
pub fn text(text: &str) -> Cow<'_, str> {
    let is_unsafe = |c: char| is_unsafe(c) && !matches!(c, '\n' | '\t');
    escaped(text, is_unsafe, |out, character| {
        out.extend(character.escape_default());
    })
}

/// Escapes JSON without changing its content: unsafe characters that serde leaves occur only in
/// strings.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    let is_unsafe = |c: char| is_unsafe(c) && c != '\n';
    escaped(text, is_unsafe, |out, character| {
        for unit in character.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}"); // writing to a String cannot fail
        }
    })
}

/// Escapes an OS string for one line; invalid UTF-8 bytes become `\xff`.
pub(crate) fn os(name: &OsStr) -> String {
    let mut shown = String::new();
    for chunk in name.as_encoded_bytes().utf8_chunks() {
        shown.push_str(&line(chunk.valid()));
        for byte in chunk.invalid() {
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

fn escaped(
    text: &str,
    is_unsafe: impl Fn(char) -> bool,
    escape: impl Fn(&mut String, char),
) -> Cow<'_, str> {
    if !text.contains(&is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_unsafe(character) {
            escape(&mut out, character);
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ESC, BEL, CR, newline, DEL, a C1 control, a direction override, a line separator, an
    /// invisible mark.
    const HOSTILE: &str = "\u{1b}]0;x\u{7}\r\n\u{7f}\u{9b}31m\u{202e}\u{2028}\u{feff}";

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(
            line(HOSTILE),
            r"\u{1b}]0;x\u{7}\r\n\u{7f}\u{9b}31m\u{202e}\u{2028}\u{feff}"
        );
        assert_eq!(text("a\n\tb\u{1b}c"), "a\n\tb\\u{1b}c");
        assert!(matches!(line("日本語 é 🙂 a b.png"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_escapes_control_characters_without_loss() {
        let name = format!("{HOSTILE}\u{e0041}é");
        let plain = serde_json::to_string_pretty(&[&name]).unwrap();
        let escaped = json(&plain);
        assert!(
            !escaped.contains(|c| is_unsafe(c) && c != '\n'),
            "{escaped}"
        );
        let again: Vec<String> = serde_json::from_str(&escaped).unwrap();
        assert_eq!(again, [name]);
    }

    #[cfg(unix)]
    #[test]
    fn non_utf8_bytes_are_shown() {
        use std::os::unix::ffi::OsStrExt;
        let name = OsStr::from_bytes(b"a\xff\x1b\xe2\x82.png");
        assert_eq!(os(name), r"a\xff\u{1b}\xe2\x82.png");
    }
}
