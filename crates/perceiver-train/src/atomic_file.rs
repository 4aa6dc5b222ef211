//! Files that are either the old one or the new one, whatever happens in between.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

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

/// The bytes of the file at `path`.
///
/// # Errors
/// When the operating system refuses.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| TrainError::Io {
        action: "read",
        path: path.to_path_buf(),
        source,
    })
}

/// Replaces `path` by `bytes`: written beside it, flushed to the disk, then renamed over it. Whoever reads `path`, even
/// after a power cut, finds the old content or the new.
///
/// # Errors
/// When the directory cannot be written or the disk is full; the old file stays.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |source| TrainError::Io {
        action: "write",
        path: path.to_path_buf(),
        source,
    };
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let mut file = Builder::new()
        .prefix(PREFIX)
        .tempfile_in(directory)
        .map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    // The rename itself lives in the directory. Windows has no such thing as syncing one.
    if cfg!(unix) {
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(failed)?;
    }
    Ok(())
}
