//! Atomic file writes: readers see the old file or the new one, whatever happens in between.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use perceiver_files::{decode_text, read_regular};
use tempfile::Builder;

use crate::error::{Result, TrainError};

/// The prefix of the names of temporary files.
const PREFIX: &str = ".writing-";

/// Removes the temporary files in `directory` that a killed program has left.
///
/// # Errors
/// When the directory cannot be read or a file cannot be removed.
pub(crate) fn remove_leftovers(directory: &Path) -> Result<()> {
    let failed = |source| TrainError::Io {
        action: "clean up",
        path: directory.to_path_buf(),
        source,
    };
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

/// Reads the regular file at `path`, of at most `limit` bytes.
///
/// # Errors
/// When the operating system refuses, it is not a regular file, or it is larger.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    tracing::debug!("reading {}", path.display());
    read_regular(path, limit).map_err(|source| TrainError::Io {
        action: "read",
        path: path.to_path_buf(),
        source,
    })
}

/// Reads the text of the regular file at `path`, of at most `limit` bytes, as any editor may have
/// written it. `expected` describes the file in errors.
///
/// # Errors
/// As for [`read`], and when the content is not text.
pub(crate) fn read_text(path: &Path, limit: u64, expected: &str) -> Result<String> {
    decode_text(read(path, limit)?).map_err(|error| TrainError::Damaged {
        path: path.to_path_buf(),
        expected: expected.to_string(),
        finding: error.to_string(),
    })
}

/// Replaces the file at `path` with `bytes`: writes a temporary file beside it, flushes it to the
/// disk and renames it. A reader finds the old content or the new, even after a power cut.
///
/// # Errors
/// When the directory cannot be written or the disk is full; the old file stays.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    tracing::debug!("writing {}: {} bytes", path.display(), bytes.len());
    write_with(path, |file| file.write_all(bytes))
}

/// [`write`] with the content that `fill` writes, for files larger than memory.
///
/// # Errors
/// As for [`write`], and when `fill` fails.
pub(crate) fn write_with(
    path: &Path,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<()> {
    let attempt = || {
        let directory = directory_of(path);
        let mut file = with_mode_by_umask(Builder::new().prefix(PREFIX)).tempfile_in(directory)?;
        fill(file.as_file_mut())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        sync(directory)
    };
    attempt().map_err(|source| TrainError::Io {
        action: "write",
        path: path.to_path_buf(),
        source,
    })
}

/// Creates a file without a name on the file system of `path`, which is gone when it is closed.
///
/// # Errors
/// When the directory of `path` cannot be written.
pub(crate) fn scratch(path: &Path) -> Result<File> {
    tempfile::tempfile_in(directory_of(path)).map_err(|source| TrainError::Io {
        action: "write",
        path: path.to_path_buf(),
        source,
    })
}

/// Links the file at `from` to the second name `to` in the same directory, atomically replacing a
/// file there. Uses a hard link, which takes no space, or a copy if the file system has no hard
/// links. This is safe for files that are only ever replaced, never modified.
///
/// # Errors
/// When `from` cannot be read or the directory cannot be written.
pub(crate) fn link(from: &Path, to: &Path) -> Result<()> {
    let attempt = || {
        let directory = directory_of(to);
        let linked = Builder::new()
            .prefix(PREFIX)
            .make_in(directory, |path| fs::hard_link(from, path))?;
        let name = linked.path().to_path_buf();
        linked.persist(to).map_err(|error| error.error)?;
        // POSIX's rename does nothing if both names already refer to the same file.
        match fs::remove_file(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => sync(directory),
        }
    };
    match attempt() {
        Ok(()) => Ok(()),
        Err(_) => write(to, &read(from, u64::MAX)?),
    }
}

/// Gives a file the default mode by the umask. Without this, temporary files are private to their
/// owner, and stay so after the rename.
fn with_mode_by_umask<'a, 'b>(builder: &'a mut Builder<'b, 'b>) -> &'a mut Builder<'b, 'b> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder
}

fn directory_of(path: &Path) -> &Path {
    let parent = path.parent();
    parent
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Flushes a directory, which makes a rename durable. Windows has no such operation.
fn sync(directory: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn hard_links_keep_the_content_when_the_original_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let [now, before] = ["now", "before"].map(|name| directory.path().join(name));
        for content in ["1", "2", "3"] {
            write(&now, content.as_bytes()).unwrap();
            // The second time, as after a kill in between, both are names of the same file.
            for _ in 0..2 {
                link(&now, &before).unwrap();
                assert_eq!(names(directory.path()), ["before", "now"]);
            }
        }
        write(&now, b"4").unwrap();
        let content = [&before, &now].map(|path| fs::read(path).unwrap());
        assert_eq!(content, [b"3", b"4"]);
    }

    /// The mode is not 0600: others may read the file, unless the umask forbids it.
    #[cfg(unix)]
    #[test]
    fn file_modes_follow_the_umask() {
        use std::os::unix::fs::PermissionsExt;

        let directory = tempfile::tempdir().unwrap();
        let [ours, any] = ["ours", "any"].map(|name| directory.path().join(name));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        fs::write(&any, "").unwrap();
        for content in ["new", "replaced"] {
            write(&ours, content.as_bytes()).unwrap();
            assert_eq!(mode(&ours), mode(&any), "{content}");
        }
    }

    #[test]
    fn failed_writes_leave_no_files() {
        let directory = tempfile::tempdir().unwrap();
        let taken = directory.path().join("taken");
        fs::create_dir_all(taken.join("full")).unwrap();
        let error = write(&taken, b"new").unwrap_err().to_string();
        assert!(
            error.starts_with("cannot write") && error.contains("taken"),
            "{error}"
        );
        assert!(link(&directory.path().join("missing"), &taken).is_err());
        assert_eq!(names(directory.path()), ["taken"]);
    }
}
