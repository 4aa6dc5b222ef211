//! Detects compressed shards, which do not support random access: images are found by their offsets
//! in a file, which a compressed file reveals only by unpacking all of it.

use std::path::{Path, PathBuf};

/// Compression programs with their file extensions and magic numbers.
const COMPRESSIONS: [(&str, &[&str], &[u8]); 4] = [
    ("gzip", &[".tar.gz", ".tgz"], b"\x1F\x8B"),
    ("zstd", &[".tar.zst", ".tzst"], b"\x28\xB5\x2F\xFD"),
    ("bzip2", &[".tar.bz2", ".tbz2"], b"BZh"),
    ("xz", &[".tar.xz", ".txz"], b"\xFD7zXZ\x00"),
];

/// Detects the compression of a tar file by its name.
pub(super) fn by_name(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.to_str()?.to_lowercase();
    let compression = COMPRESSIONS
        .iter()
        .find(|(_, ends, _)| ends.iter().any(|end| name.ends_with(end)))?;
    Some(compression.0)
}

/// Returns the path of the unpacked tar file next to a compressed one.
pub(super) fn unpacked(path: &Path) -> PathBuf {
    let without = path.with_extension("");
    if without
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("tar"))
    {
        without
    } else {
        without.with_added_extension("tar") // of a .tgz
    }
}

/// Detects the compression of a file by its first bytes.
pub(super) fn by_content(start: &[u8]) -> Option<&'static str> {
    let compression = COMPRESSIONS
        .iter()
        .find(|(.., mark)| start.starts_with(mark))?;
    Some(compression.0)
}

/// The expected kind of file, for errors.
pub(super) const EXPECTED: &str =
    "an uncompressed tar file, since images are read by their offset in it";

/// Describes a compressed file and how to unpack it, for errors.
pub(super) fn describe(compression: &str) -> String {
    format!("one compressed with {compression}; decompress it first, to a .tar file next to it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_is_detected_by_name_and_content() {
        for (name, expected) in [
            ("a/train-0.tar.gz", Some("gzip")),
            ("TRAIN.TGZ", Some("gzip")),
            ("train.tar.zst", Some("zstd")),
            ("train.tar", None),
            ("train.gz", None),
        ] {
            assert_eq!(by_name(Path::new(name)), expected, "{name}");
        }
        for name in ["a/train-0.0.tar.gz", "a/train-0.0.tgz"] {
            assert_eq!(unpacked(Path::new(name)), Path::new("a/train-0.0.tar"));
        }
        assert_eq!(by_content(b"\x1F\x8B\x08\x00"), Some("gzip"));
        assert_eq!(by_content(b"0001.png"), None);
        assert_eq!(by_content(b""), None);
    }
}
