//! What came from outside, made fit for a terminal: names of files and classes, words of a server, text in an archive.
//!
//! A terminal takes some characters for commands, and a newline in a name makes two lines of one. Whatever is printed for people
//! goes through here: [`line()`] is for what stands in a line, [`text`] for whole texts, whose newlines are ours. JSON for other
//! programs keeps every character, as its own escapes.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::Write as _;

/// Whether a terminal, or a reader, would be misled by a character: control characters, those that change the direction of text
/// or end a line, and those that are not seen.
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

/// Text for one line, with such characters as Rust writes them: `\n`, `\u{1b}`.
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

/// Text of several lines: newlines and tabs stay.
pub fn text(text: &str) -> Cow<'_, str> {
    let is_unsafe = |c: char| is_unsafe(c) && !matches!(c, '\n' | '\t');
    escaped(text, is_unsafe, |out, character| {
        out.extend(character.escape_default());
    })
}

/// JSON with the same content: what serde leaves as it is stands only in strings, where it can be escaped.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    let is_unsafe = |c: char| is_unsafe(c) && c != '\n';
    escaped(text, is_unsafe, |out, character| {
        for unit in character.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}"); // to a string, which takes all
        }
    })
}

/// A name of the operating system for one line; bytes that are no UTF-8 are shown as `\xff`.
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

    /// ESC, BEL, CR, newline, DEL, a C1 control, an override of direction, a separator of lines, a mark that is not seen.
    const HOSTILE: &str = "\u{1b}]0;x\u{7}\r\n\u{7f}\u{9b}31m\u{202e}\u{2028}\u{feff}";

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        assert_eq!(
            line(HOSTILE),
            r"\u{1b}]0;x\u{7}\r\n\u{7f}\u{9b}31m\u{202e}\u{2028}\u{feff}"
        );
        assert_eq!(text("a\n\tb\u{1b}c"), "a\n\tb\\u{1b}c");
        assert!(matches!(line("日本語 é 🙂 a b.png"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_has_the_same_content_and_nothing_that_a_terminal_obeys() {
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
    fn bytes_that_are_no_text_are_shown() {
        use std::os::unix::ffi::OsStrExt;
        let name = OsStr::from_bytes(b"a\xff\x1b\xe2\x82.png");
        assert_eq!(os(name), r"a\xff\u{1b}\xe2\x82.png");
    }
}
