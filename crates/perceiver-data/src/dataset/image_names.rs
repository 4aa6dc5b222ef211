//! Display names of images: `cat/1.jpg` in a folder, `test-0.tar:a/7.jpg` or `test-0.parquet:17` in
//! a shard.

use std::path::Path;

/// Returns the path of a file relative to the data folder `root`, separated by `/`. Bytes that are
/// not UTF-8 become `\xFF`, so that different files have different names.
pub(crate) fn name_of_file(root: &Path, file: &Path) -> String {
    let path = file.strip_prefix(root).unwrap_or(file);
    let parts: Vec<String> = path
        .iter()
        .map(|part| text(part.as_encoded_bytes()))
        .collect();
    parts.join("/")
}

/// Returns the name of an image in a shard, by its key or its row (from 0).
pub(crate) fn name_in_shard(shard: &str, key: impl std::fmt::Display) -> String {
    format!("{shard}:{key}")
}

fn text(bytes: &[u8]) -> String {
    let chunks = bytes.utf8_chunks().map(|chunk| {
        let escaped = chunk.invalid().iter().map(|byte| format!("\\x{byte:02X}"));
        chunk.valid().to_string() + &escaped.collect::<String>()
    });
    chunks.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_in_the_data_folder() {
        let root = Path::new("/data/photos");
        let name = |file: &str| name_of_file(root, Path::new(file));
        assert_eq!(name("/data/photos/cat/deep/1.jpg"), "cat/deep/1.jpg");
        assert_eq!(name("elsewhere/1.jpg"), "elsewhere/1.jpg");
        assert_eq!(name_in_shard("test-0.parquet", 17), "test-0.parquet:17");
    }

    #[cfg(unix)]
    #[test]
    fn non_utf8_file_names_stay_distinct() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let name = |bytes: &[u8]| name_of_file(Path::new("x"), Path::new(OsStr::from_bytes(bytes)));
        assert_eq!(name(b"x/a\xFE.png"), "a\\xFE.png");
        assert_ne!(name(b"x/a\xFE.png"), name(b"x/a\xFF.png"));
    }
}
