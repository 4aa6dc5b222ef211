//! Verifies downloaded files by size and checksum.
//!
//! `hf-hub` stores any server response to a download under the name of the file, an error page
//! included, and serves it from its cache from then on. So a file must have the announced size and
//! checksum. The checksum is the SHA-256 of a large file or git's SHA-1 of its pointer, and git's
//! SHA-1 of a small file. Offline, the checksum is the name of the file's blob in the cache, which
//! is the entity tag of the download.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::error::{HubError, Result};

/// A file of a repository listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Path in the repository.
    pub path: String,
    /// Size in bytes; `None` for a file that only the cache lists.
    pub size: Option<u64>,
    /// Checksum of the content, if the Hub states one.
    pub(crate) sum: Option<Sum>,
}

/// A checksum, in lowercase hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sum {
    /// SHA-256 of the content of a large file.
    Sha256(String),
    /// Git's SHA-1 of a small file: over `blob SIZE`, a zero byte and the content.
    GitBlob(String),
    /// Git's SHA-1 of a large file's LFS pointer, which holds the SHA-256 and the size of the
    /// content.
    GitPointer(String),
}

impl Sum {
    /// Parses the checksum in the name of a cache blob.
    fn of_blob_name(name: &str) -> Option<Self> {
        let is_hex = name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let name = name.to_ascii_lowercase();
        match name.len() {
            64 if is_hex => Some(Self::Sha256(name)),
            40 if is_hex => Some(Self::GitBlob(name)),
            _ => None,
        }
    }

    /// Returns the checksum for a pointer's git object ID, if the pointer has the usual form, which
    /// its size tells.
    pub(crate) fn of_pointer(oid: String, pointer_size: u64, size: u64) -> Option<Self> {
        let usual = pointer(&"0".repeat(64), size).len() as u64;
        (pointer_size == usual).then_some(Self::GitPointer(oid))
    }

    /// Computes a checksum of the same kind over other content.
    pub(crate) fn of_same_kind(&self, reader: &mut impl Read, size: u64) -> io::Result<Self> {
        Ok(match self {
            Self::Sha256(_) => Self::Sha256(digest(Sha256::new(), reader)?),
            Self::GitBlob(_) => Self::GitBlob(git_blob(reader, size)?),
            Self::GitPointer(_) => {
                let pointer = pointer(&digest(Sha256::new(), reader)?, size);
                let length = pointer.len() as u64;
                Self::GitPointer(git_blob(&mut pointer.as_bytes(), length)?)
            }
        })
    }

    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Sha256(sum) => format!("SHA-256 {sum}"),
            Self::GitBlob(sum) => format!("git's SHA-1 {sum}"),
            Self::GitPointer(sum) => format!("content whose LFS pointer has git's SHA-1 {sum}"),
        }
    }
}

/// Returns the Git LFS pointer of a file.
fn pointer(sha256: &str, size: u64) -> String {
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n")
}

fn git_blob(reader: &mut impl Read, size: u64) -> io::Result<String> {
    let mut hash = Sha1::new();
    hash.update(format!("blob {size}\0"));
    digest(hash, reader)
}

fn digest(mut hash: impl Digest, reader: &mut impl Read) -> io::Result<String> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer)? {
            0 => {
                let sum = hash.finalize();
                let digits = sum.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
                let digits = digits.filter_map(|digit| char::from_digit(digit.into(), 16));
                return Ok(digits.collect());
            }
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Verifies that the file at `path` is the announced one.
///
/// # Errors
/// When its size or checksum differs, or it cannot be read.
pub(crate) fn check_file(path: &Path, announced: &RemoteFile) -> Result<()> {
    let io = |source| HubError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let wrong = |expected: String, found: String| {
        Err(HubError::WrongDownload {
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
    if let Some(expected) = announced.sum.clone().or_else(|| sum_of_blob(path)) {
        let found = expected.of_same_kind(&mut file, size).map_err(io)?;
        if found != expected {
            return wrong(expected.shown(), found.shown());
        }
    }
    Ok(())
}

/// Returns the checksum in the name of the blob that `path` links to.
fn sum_of_blob(path: &Path) -> Option<Sum> {
    let target = fs::read_link(path).ok()?;
    Sum::of_blob_name(target.file_name()?.to_str()?)
}

/// Removes a file from the cache: the blob and the link to it.
///
/// # Errors
/// When the operating system refuses.
pub fn remove_cached(path: &Path) -> Result<()> {
    let remove = |path: &Path| match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(HubError::Io {
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
    fn files_are_verified_by_size_and_checksum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hello.txt");
        fs::write(&path, b"hello world\n").unwrap();
        let announced = |size, sum| RemoteFile {
            path: "hello.txt".into(),
            size,
            sum,
        };
        // Output of `sha256sum` and `git hash-object`.
        let sha256 = "a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447";
        let git = "3b18e512dba79e4c8300dd08aeb37f8e728b8dad";
        for name in [sha256, git] {
            let sum = Sum::of_blob_name(name);
            assert!(check_file(&path, &announced(Some(12), sum)).is_ok());
        }
        let wrong_size = check_file(&path, &announced(Some(13), None)).unwrap_err();
        assert!(
            wrong_size
                .to_string()
                .contains("expected 13 bytes, found 12 bytes")
        );
        fs::write(&path, b"hello World\n").unwrap();
        for (name, expected) in [
            (sha256, "expected SHA-256 a948"),
            (git, "expected git's SHA-1 3b18"),
        ] {
            let sum = Sum::of_blob_name(name);
            let wrong = check_file(&path, &announced(None, sum)).unwrap_err();
            assert!(wrong.to_string().contains(expected), "{wrong}");
        }
    }

    #[test]
    fn large_files_are_verified_by_their_pointer() {
        let content = b"hello world\n";
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447\nsize 12\n";
        // Output of `git hash-object` for that pointer.
        let oid = "0db788d9cca75b69bc4c2430024a654fafdb504e";
        let sum = Sum::of_pointer(oid.into(), pointer.len() as u64, 12).unwrap();
        assert_eq!(sum.of_same_kind(&mut content.as_slice(), 12).unwrap(), sum);
        let other = sum
            .of_same_kind(&mut b"hello World\n".as_slice(), 12)
            .unwrap();
        assert_ne!(other, sum);
        assert_eq!(Sum::of_pointer(oid.into(), 999, 12), None);
    }

    #[test]
    fn other_entity_tags_are_not_checksums() {
        assert_eq!(Sum::of_blob_name("5f3a-1c"), None);
        assert_eq!(Sum::of_blob_name(&"z".repeat(40)), None);
    }
}
