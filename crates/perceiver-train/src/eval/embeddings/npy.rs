//! NumPy's array format, version 1.0, with names and checkpoint in a JSON file beside it.
//!
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use perceiver_files::MAX_TABLE_BYTES;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::eval::embeddings::header::{EXPECTED, EmbeddedImage, Stored, damaged};
use crate::eval::embeddings::values_of;
use crate::run::{atomic_file, json_file};

const MAGIC: &[u8] = b"\x93NUMPY";

/// The header is padded so that the values are aligned.
const ALIGNMENT: usize = 64;

/// The content of the file beside the array.
#[derive(Debug, Serialize, Deserialize)]
struct Sidecar {
    #[serde(flatten)]
    stored: Stored,
    /// The images, in the order of the rows.
    files: Vec<EmbeddedImage>,
}

/// Returns the path of the file with the names: that of the array and `.json`.
pub(crate) fn sidecar(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".json");
    PathBuf::from(name)
}

/// Writes the array, whose values are those in `values`, and the file beside it.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn write(
    path: &Path,
    stored: Stored,
    files: Vec<EmbeddedImage>,
    values: &mut File,
) -> Result<()> {
    let header = header(&stored.array_shape());
    atomic_file::write_with(path, |file| {
        file.write_all(&header)?;
        io::copy(values, file).map(drop)
    })?;
    json_file::write(&sidecar(path), &Sidecar { stored, files })
}

/// Reads the array at `path` and the file beside it.
///
/// # Errors
/// When either is missing or invalid, or their shapes differ.
pub(crate) fn read(path: &Path) -> Result<(Stored, Vec<EmbeddedImage>, Vec<f32>)> {
    let bytes = atomic_file::read(path, u64::MAX)?;
    let beside = sidecar(path);
    let text = atomic_file::read_text(&beside, MAX_TABLE_BYTES, EXPECTED)?;
    let Sidecar { stored, files } =
        serde_json::from_str(&text).map_err(|error| damaged(&beside, error.to_string()))?;
    let stored = stored.checked(&beside)?;
    let shape = stored.array_shape();
    let (found, values) = parse(&bytes).map_err(|finding| damaged(path, finding))?;
    if found != shape {
        let finding = format!("an array of shape {found:?}, not {shape:?}");
        return Err(damaged(path, finding));
    }
    Ok((stored, files, values_of(values)))
}

/// Returns the header of an array of `f32`: magic, version, length, and a Python dictionary.
fn header(shape: &[usize]) -> Vec<u8> {
    let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
    let comma = if shape.len() == 1 { "," } else { "" };
    let mut text = format!(
        "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}{comma}), }}",
        sizes.join(", ")
    );
    let before = MAGIC.len() + 4;
    let length = (before + text.len() + 1).next_multiple_of(ALIGNMENT);
    text.extend(std::iter::repeat_n(' ', length - before - text.len() - 1));
    text.push('\n');
    // A shape has at most a few numbers, so the text is shorter than 64 KiB.
    let size = (text.len() as u16).to_le_bytes();
    [MAGIC, &[1, 0], &size, text.as_bytes()].concat()
}

/// Parses an array of little-endian `f32` in C order: its shape and the bytes of its values.
fn parse(bytes: &[u8]) -> Result<(Vec<usize>, &[u8]), String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("no NumPy array")?;
    let (length, rest) = match rest {
        [1, 0, a, b, rest @ ..] => (u16::from_le_bytes([*a, *b]) as usize, rest),
        [2 | 3, 0, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        _ => return Err("an unknown version of NumPy's format".to_string()),
    };
    let (text, values) = rest.split_at_checked(length).ok_or("a truncated header")?;
    let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    let field = |key: &str| {
        let (_, value) = text.split_once(&format!("'{key}': "))?;
        Some(value.trim_start())
    };
    let is = |key, expected| field(key).is_some_and(|value: &str| value.starts_with(expected));
    if !is("descr", "'<f4'") || !is("fortran_order", "False") {
        return Err(format!(
            "an array of another type or order than float32 in C order: {}",
            text.trim_end()
        ));
    }
    let shape = field("shape")
        .and_then(|value| value.strip_prefix('(')?.split_once(')'))
        .map(|(sizes, _)| {
            sizes
                .split(',')
                .map(str::trim)
                .filter(|size| !size.is_empty())
        })
        .and_then(|sizes| sizes.map(|size| size.parse().ok()).collect())
        .ok_or_else(|| format!("an array without shape: {}", text.trim_end()))?;
    Ok((shape, values))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that `numpy.save` writes for `numpy.zeros((3, 2), numpy.float32)`, without values.
    #[test]
    fn headers_are_those_of_numpy() {
        let header = header(&[3, 2]);
        assert_eq!(header.len(), 128);
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }";
        let expected = format!("{text}{}\n", " ".repeat(128 - 10 - text.len() - 1));
        assert_eq!(&header[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert_eq!(&header[10..], expected.as_bytes());
    }

    #[test]
    fn arrays_of_any_version_are_parsed() {
        for shape in [vec![7], vec![3, 2], vec![1, 20, 300]] {
            let bytes = [header(&shape), vec![0; 4]].concat();
            assert_eq!(parse(&bytes), Ok((shape.clone(), &[0; 4][..])));
            let mut longer = bytes[..6].to_vec();
            longer.extend([2, 0]);
            longer.extend([&bytes[8..10], &[0, 0], &bytes[10..]].concat());
            assert_eq!(parse(&longer), Ok((shape, &[0; 4][..])));
        }
    }

    #[test]
    fn other_arrays_are_refused() {
        let with = |from: &str, to: &str| {
            let text = header(&[3, 2]).escape_ascii().to_string();
            assert!(text.contains(&from.escape_default().to_string()));
            let header = header(&[3, 2]);
            let at = header
                .windows(from.len())
                .position(|w| w == from.as_bytes());
            let at = at.unwrap();
            let bytes = [&header[..at], to.as_bytes(), &header[at + from.len()..]].concat();
            parse(&bytes).unwrap_err()
        };
        assert!(with("'<f4'", "'<f8'").contains("another type"));
        assert!(with("False", "True ").contains("another type"));
        assert!(with("(3, 2)", "(3, x)").contains("without shape"));
        assert!(with("NUMPY", "NUMPX").contains("no NumPy array"));
        assert_eq!(
            parse(b"\x93NUMPY\x01\x00\xff\xff"),
            Err("a truncated header".to_string())
        );
    }
}
