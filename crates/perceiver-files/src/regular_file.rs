//! Reads regular files only, up to a size limit.
//!
//! Opening a named pipe blocks, a device such as `/dev/zero` has no end, and a sparse file of many
//! gigabytes takes no room on the disk but all of memory.

use std::fs::{self, File, FileType};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// The maximum size in bytes of a settings file that is read whole: a `config.json`, a recipe, a
/// list of class names.
pub const MAX_TEXT_BYTES: u64 = 64 << 20;

/// The maximum size in bytes of a table that grows with a run or a data set: metrics, predictions.
pub const MAX_TABLE_BYTES: u64 = 1 << 30;

/// Opens the regular file at `path` and returns it with its size in bytes.
///
/// # Errors
/// As [`File::open`], and [`ErrorKind::IsADirectory`] for a directory, [`ErrorKind::InvalidInput`]
/// for a pipe, a socket or a device.
pub fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    // Check before opening, since opening a pipe blocks, and after, since the path may name another
    // file by now.
    require_regular(fs::metadata(path)?.file_type())?;
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    require_regular(metadata.file_type())?;
    Ok((file, metadata.len()))
}

/// Reads the regular file at `path`, up to `limit` bytes.
///
/// ```
/// let dir = tempfile::tempdir().unwrap();
/// let path = dir.path().join("settings.toml");
/// std::fs::write(&path, "epochs = 3").unwrap();
/// assert_eq!(perceiver_files::read_regular(&path, 10).unwrap(), b"epochs = 3");
/// let error = perceiver_files::read_regular(&path, 9).unwrap_err();
/// assert_eq!(error.to_string(), "expected a file of at most 9 bytes, found 10");
/// ```
///
/// # Errors
/// As [`open_regular`], and [`ErrorKind::FileTooLarge`] when there are more bytes.
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let (file, size) = open_regular(path)?;
    if size > limit {
        return Err(too_large(limit, &size.to_string()));
    }
    read_at_most(file, limit, size as usize)
}

/// Reads `source` to its end, up to `limit` bytes: for user-supplied paths, which may be pipes.
///
/// # Errors
/// As reading does, and [`ErrorKind::FileTooLarge`] when there are more bytes.
pub fn read_limited(source: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    read_at_most(source, limit, 0)
}

fn read_at_most(source: impl Read, limit: u64, expected: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(expected)?;
    // The reported size is only a hint: files of `/proc` report none, and others grow during the
    // read.
    source
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(too_large(limit, "more"));
    }
    Ok(bytes)
}

fn too_large(limit: u64, found: &str) -> io::Error {
    let limit = match limit {
        0..0x10_0000 => format!("{limit} bytes"),
        _ => format!("{} MiB", limit >> 20),
    };
    let found = match found.parse::<u64>() {
        Ok(found) if found >= 0x10_0000 => format!("{} MiB", found.div_ceil(1 << 20)),
        _ => found.to_owned(),
    };
    let finding = format!("expected a file of at most {limit}, found {found}");
    io::Error::new(ErrorKind::FileTooLarge, finding)
}

fn require_regular(file: FileType) -> io::Result<()> {
    if file.is_file() {
        return Ok(());
    }
    let finding = format!("expected a regular file, found {}", kind(file));
    let error = if file.is_dir() {
        ErrorKind::IsADirectory
    } else {
        ErrorKind::InvalidInput
    };
    Err(io::Error::new(error, finding))
}

#[cfg(unix)]
fn kind(file: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match file {
        file if file.is_dir() => "a directory",
        file if file.is_fifo() => "a named pipe",
        file if file.is_socket() => "a socket",
        _ => "a device",
    }
}

#[cfg(not(unix))]
fn kind(file: FileType) -> &'static str {
    if file.is_dir() {
        "a directory"
    } else {
        "something else"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_message(path: &Path, limit: u64) -> String {
        read_regular(path, limit).unwrap_err().to_string()
    }

    #[test]
    fn files_larger_than_the_limit_are_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read_regular(&path, 5).unwrap(), b"12345");
        assert_eq!(
            error_message(&path, 4),
            "expected a file of at most 4 bytes, found 5"
        );
        assert_eq!(
            error_message(dir.path(), 4),
            "expected a regular file, found a directory"
        );
        let missing = read_regular(&dir.path().join("no"), 4).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn sparse_files_are_rejected_by_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.png");
        File::create(&path).unwrap().set_len(3 << 30).unwrap();
        assert_eq!(
            error_message(&path, 64 << 20),
            "expected a file of at most 64 MiB, found 3072 MiB"
        );
    }

    #[test]
    fn endless_input_is_read_up_to_the_limit() {
        let error = read_limited(io::repeat(0), 1 << 20).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        assert_eq!(read_limited(&b"abc"[..], 3).unwrap(), b"abc");
    }

    #[cfg(unix)]
    #[test]
    fn pipes_sockets_and_devices_are_rejected_without_blocking() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe.png");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        assert_eq!(
            error_message(&pipe, 4),
            "expected a regular file, found a named pipe"
        );
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(
            error_message(&socket, 4),
            "expected a regular file, found a socket"
        );
        assert_eq!(
            error_message(Path::new("/dev/zero"), 4),
            "expected a regular file, found a device"
        );
    }
}
