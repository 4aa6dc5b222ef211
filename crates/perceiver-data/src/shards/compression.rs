//! Shards that are compressed. Images are found by their places in a file, which a compressed one does not tell without unpacking all.

use std::path::{Path, PathBuf};

/// What programs that compress call their files, and the first bytes of these.
const COMPRESSIONS: [(&str, &[&str], &[u8]); 4] = [
    ("gzip", &[".tar.gz", ".tgz"], b"\x1F\x8B"),
    ("zstd", &[".tar.zst", ".tzst"], b"\x28\xB5\x2F\xFD"),
    ("bzip2", &[".tar.bz2", ".tbz2"], b"BZh"),
    ("xz", &[".tar.xz", ".txz"], b"\xFD7zXZ\x00"),
];

/// What a tar file is compressed by, told by its name.
pub(super) fn by_name(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.to_str()?.to_lowercase();
    let compression = COMPRESSIONS
        .iter()
        .find(|(_, ends, _)| ends.iter().any(|end| name.ends_with(end)))?;
    Some(compression.0)
}

/// Where the tar file in a compressed one lies once it is unpacked beside it.
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

/// What a file is compressed by, told by its first bytes.
pub(super) fn by_content(start: &[u8]) -> Option<&'static str> {
    let compression = COMPRESSIONS
        .iter()
        .find(|(.., mark)| start.starts_with(mark))?;
    Some(compression.0)
}

/// What a tar file should be.
pub(super) const EXPECTED: &str =
    "a tar file that is not compressed, since images are read from where they lie in it";

/// What was found instead.
pub(super) fn found(compression: &str) -> String {
    format!("one that {compression} has compressed; unpack it first, to a .tar file beside it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_files_are_told_by_name_and_by_content() {
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
