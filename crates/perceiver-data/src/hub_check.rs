//! Whether a downloaded file is the one that the Hub announced.
//!
//! Why: `hf-hub` stores whatever a server answers to a download under the name of the file, an error page included,
//! and serves it from its cache from then on. So a file must have the announced size, Parquet's marks at both ends,
//! and the SHA-256 that is the name of its blob in the cache.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{DataError, Result};
use crate::hex::hex;

/// What the Hub says of a file.
#[derive(Clone, Debug)]
pub(crate) struct RemoteFile {
    /// Its path in the repository.
    pub(crate) path: String,
    pub(crate) size: Option<u64>,
    pub(crate) sha256: Option<String>,
}

/// Whether the file at `path` is the one that the Hub announced.
pub(crate) fn check_file(path: &Path, announced: &RemoteFile) -> Result<()> {
    let io = |source| DataError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let wrong = |expected: String, found: String| {
        Err(DataError::WrongDownload {
            path: path.to_owned(),
            expected,
            found,
        })
    };
    let mut file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    if let Some(expected) = announced.size.filter(|&expected| expected != size) {
        return wrong(format!("{expected} bytes"), format!("{size} bytes"));
    }
    if !has_parquet_marks(&mut file, size).map_err(io)? {
        return wrong(
            "Parquet".into(),
            "something else, perhaps an error page".into(),
        );
    }
    if let Some(expected) = announced.sha256.clone().or_else(|| blob_sha256(path)) {
        file.rewind().map_err(io)?;
        let found = sha256(&mut file).map_err(io)?;
        if found != expected {
            return wrong(format!("SHA-256 {expected}"), found);
        }
    }
    Ok(())
}

/// Parquet begins and ends with `PAR1`.
fn has_parquet_marks(file: &mut File, size: u64) -> io::Result<bool> {
    let (mut first, mut last) = ([0; 4], [0; 4]);
    if size < 12 {
        return Ok(false);
    }
    file.read_exact(&mut first)?;
    file.seek(SeekFrom::End(-4))?;
    file.read_exact(&mut last)?;
    Ok([first, last] == [*b"PAR1", *b"PAR1"])
}

/// The SHA-256 that the Hub states for a large file: it is the file's entity tag, by which `hf-hub` names the blob
/// that `path` is a link to.
fn blob_sha256(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    let name = target.file_name()?.to_str()?;
    let is_sha256 = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_sha256.then(|| name.to_ascii_lowercase())
}

fn sha256(reader: &mut impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer)? {
            0 => {
                return Ok(hex(&hash.finalize()));
            }
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Removes a file of the cache: the blob, and the link to it.
pub(crate) fn remove_cached(path: &Path) -> Result<()> {
    let remove = |path: &Path| match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(DataError::Io {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    };
    if let Ok(blob) = fs::canonicalize(path) {
        remove(&blob)?;
    }
    remove(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_checked_by_size_marks_and_sum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train-0.parquet");
        let bytes = b"PAR1 columns PAR1";
        fs::write(&path, bytes).unwrap();
        let announced = |size, sha256: Option<&str>| RemoteFile {
            path: "train-0.parquet".into(),
            size,
            sha256: sha256.map(str::to_owned),
        };
        let sum = sha256(&mut bytes.as_slice()).unwrap();
        assert!(check_file(&path, &announced(Some(17), Some(&sum))).is_ok());
        let wrong_size = check_file(&path, &announced(Some(18), None)).unwrap_err();
        assert!(
            wrong_size
                .to_string()
                .contains("expected 18 bytes, found 17 bytes")
        );
        let wrong_sum = check_file(&path, &announced(None, Some("00"))).unwrap_err();
        assert!(wrong_sum.to_string().contains("expected SHA-256 00"));
        fs::write(&path, b"<html>oops</html>").unwrap();
        let page = check_file(&path, &announced(Some(17), None)).unwrap_err();
        assert!(page.to_string().contains("error page"), "{page}");
    }
}
