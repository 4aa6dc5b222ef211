//! Files that are either the old one or the new one, whatever happens in between.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use perceiver_files::{decode_text, read_regular};
use tempfile::Builder;

use crate::error::{Result, TrainError};

/// What the name of a file that is being written begins with.
const PREFIX: &str = ".writing-";

/// Removes what a program that was killed while writing has left in `directory`.
///
/// # Errors
/// When the directory cannot be read or a file not removed.
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

/// The bytes of the regular file at `path`, of which there may be `limit`.
///
/// # Errors
/// When the operating system refuses, it is no regular file, or there are more.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    tracing::debug!("reading {}", path.display());
    read_regular(path, limit).map_err(|source| TrainError::Io {
        action: "read",
        path: path.to_path_buf(),
        source,
    })
}

/// The text of the regular file at `path`, of which there may be `limit` bytes, whatever editor has written it; `expected` says in words what
/// the file should be.
///
/// # Errors
/// As for [`read`], and when it is no text.
pub(crate) fn read_text(path: &Path, limit: u64, expected: &str) -> Result<String> {
    decode_text(read(path, limit)?).map_err(|error| TrainError::Damaged {
        path: path.to_path_buf(),
        expected: expected.to_string(),
        finding: error.to_string(),
    })
}

/// Replaces `path` by `bytes`: written beside it, flushed to the disk, then renamed over it. Whoever reads `path`, even
/// after a power cut, finds the old content or the new.
///
/// # Errors
/// When the directory cannot be written or the disk is full; the old file stays.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    tracing::debug!("writing {}: {} bytes", path.display(), bytes.len());
    let attempt = || {
        let directory = directory_of(path);
        let mut file = with_mode_by_umask(Builder::new().prefix(PREFIX)).tempfile_in(directory)?;
        file.write_all(bytes)?;
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

/// Gives the file at `from` the second name `to`, in the same directory, at once or not at all; what was there is replaced.
/// Takes no room where the file system has hard links, and copies elsewhere. Files that are only ever replaced, never
/// changed, may have two names.
///
/// # Errors
/// When `from` cannot be read or the directory not be written.
pub(crate) fn link(from: &Path, to: &Path) -> Result<()> {
    let attempt = || {
        let directory = directory_of(to);
        let linked = Builder::new()
            .prefix(PREFIX)
            .make_in(directory, |path| fs::hard_link(from, path))?;
        let name = linked.path().to_path_buf();
        linked.persist(to).map_err(|error| error.error)?;
        // Where both were names of one file already, POSIX's rename does nothing.
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

/// Lets a file have the mode that any program's has, by the umask. Without this temporary files are their owner's alone, and what they are
/// renamed to stays so.
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

/// Flushes a directory, which is where a rename is written. Windows has no such thing.
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
    fn a_second_name_keeps_the_content_when_the_first_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let [now, before] = ["now", "before"].map(|name| directory.path().join(name));
        for content in ["1", "2", "3"] {
            write(&now, content.as_bytes()).unwrap();
            // A second time, as after a kill in between: both are names of one file then.
            for _ in 0..2 {
                link(&now, &before).unwrap();
                assert_eq!(names(directory.path()), ["before", "now"]);
            }
        }
        write(&now, b"4").unwrap();
        let content = [&before, &now].map(|path| fs::read(path).unwrap());
        assert_eq!(content, [b"3", b"4"]);
    }

    /// Not 0600: what is written is for others to read, unless the umask says otherwise.
    #[cfg(unix)]
    #[test]
    fn a_file_has_the_mode_that_any_programs_has() {
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
    fn a_file_that_cannot_be_written_leaves_nothing_behind() {
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
