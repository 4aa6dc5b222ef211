//! Reads text files with a byte order mark or in UTF-16.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::regular_file::{MAX_TEXT_BYTES, read_limited, read_regular};

/// Reads the regular file at `path` as text, without a byte order mark.
///
/// # Errors
/// Those of [`read_regular`] with [`MAX_TEXT_BYTES`]; [`ErrorKind::InvalidData`] for what is no
/// text.
pub fn read_text(path: &Path) -> io::Result<String> {
    decode_text(read_regular(path, MAX_TEXT_BYTES)?)
}

/// Reads a file named on the command line as text; it may be a pipe, such as `<(...)` of a shell.
///
/// # Errors
/// Those of [`File::open`] and [`read_limited`] with [`MAX_TEXT_BYTES`]; [`ErrorKind::InvalidData`]
/// for what is no text.
pub fn read_named_text(path: &Path) -> io::Result<String> {
    decode_text(read_limited(File::open(path)?, MAX_TEXT_BYTES)?)
}

/// Decodes text: UTF-8 with or without a byte order mark, or UTF-16 with one.
///
/// # Errors
/// [`ErrorKind::InvalidData`] for anything else, with the position of the first invalid byte.
pub fn decode_text(mut bytes: Vec<u8>) -> io::Result<String> {
    match &bytes[..] {
        [0xEF, 0xBB, 0xBF, ..] => {
            bytes.drain(..3);
        }
        [0xFF, 0xFE, rest @ ..] => return utf16(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => return utf16(rest, u16::from_be_bytes),
        _ => {}
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].split(|&byte| byte == b'\n').count();
        invalid(format!(
            "expected UTF-8 text, found invalid bytes in line {line}; save the file as UTF-8"
        ))
    })
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> io::Result<String> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let units: Vec<u16> = pairs.iter().map(|&pair| unit(pair)).collect();
    String::from_utf16(&units)
        .ok()
        .filter(|_| rest.is_empty())
        .ok_or_else(|| {
            invalid("expected text, found invalid UTF-16; save the file as UTF-8".to_owned())
        })
}

fn invalid(finding: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, finding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16_file(text: &str, mark: [u8; 2], bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        let units = text.encode_utf16().flat_map(bytes);
        mark.into_iter().chain(units).collect()
    }

    #[test]
    fn byte_order_marks_and_utf16_are_read_as_plain_text() {
        let text = "cat\r\nHündin\r\n猫 🐈\r\n";
        let files = [
            text.as_bytes().to_vec(),
            [b"\xEF\xBB\xBF", text.as_bytes()].concat(),
            utf16_file(text, [0xFF, 0xFE], u16::to_le_bytes),
            utf16_file(text, [0xFE, 0xFF], u16::to_be_bytes),
        ];
        for file in files {
            assert_eq!(decode_text(file).unwrap(), text);
        }
        // A mark in the middle is text, as in any other program.
        assert_eq!(decode_text("a\u{feff}".into()).unwrap(), "a\u{feff}");
        assert_eq!(decode_text(Vec::new()).unwrap(), "");
    }

    #[test]
    fn errors_for_invalid_text_name_the_line() {
        for (bytes, finding) in [
            (&b"cat\nd\xF6g\n"[..], "invalid bytes in line 2"),
            (b"\x1F\x8B\x08", "invalid bytes in line 1"),
            (b"\xFF\xFEa", "invalid UTF-16"),
            (b"\xFF\xFE\x00\xD8", "invalid UTF-16"),
        ] {
            let error = decode_text(bytes.to_vec()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData);
            assert!(error.to_string().contains(finding), "{error}");
        }
    }

    #[test]
    fn files_are_read_up_to_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long.txt");
        File::create(&path)
            .unwrap()
            .set_len(MAX_TEXT_BYTES + 1) // sparse: no disk space is used
            .unwrap();
        for read in [read_text, read_named_text] {
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("at most 64 MiB"), "{error}");
        }
        std::fs::write(&path, "\u{feff}a = 1").unwrap();
        assert_eq!(read_text(&path).unwrap(), "a = 1");
        let missing = read_text(&dir.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }
}
