//! Files that are either the old one or the new one, whatever happens in between.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::{Result, TrainError};

/// Replaces `path` by `bytes`: written beside it, flushed to the disk, then renamed over it. Whoever reads `path`, even
/// after a power cut, finds the old content or the new.
///
/// # Errors
/// When the directory cannot be written or the disk is full; the old file stays.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |source| TrainError::Io {
        action: "write",
        path: path.to_path_buf(),
        source,
    };
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(directory).map_err(failed)?;
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
