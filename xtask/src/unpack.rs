//! Unpacking of a data set's `.tar.gz` from an untrusted source.
//!
//! Only regular files and directories with plain relative names are accepted, and no more bytes
//! than the data set has. Of these, only the required files are written.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path};

use flate2::read::GzDecoder;
use perceiver_data::{Forward, TarArchive};
use perceiver_files::open_regular;
use tar::{Entry, EntryType};

use crate::error::{Result, XtaskError};
use crate::progress::Progress;
use crate::spec::DatasetSpec;

/// The maximum bytes of entries other than the data set's files, such as a readme or a license.
const SLACK: u64 = 16 << 20;

/// Unpacks the data set's files from `archive` into the existing directory `into`, and reports to
/// `progress` how much of the archive has been read.
///
/// # Errors
/// When the archive is damaged, lacks a file, or has an entry that is not a plain file of a data
/// set.
pub fn unpack(
    archive: &Path,
    spec: &DatasetSpec,
    into: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let (file, total) = open_regular(archive).map_err(XtaskError::io("read", archive))?;
    progress.message("unpacking");
    let watched = Watched {
        file,
        done: 0,
        total,
        progress,
    };
    let unzipped = GzDecoder::new(BufReader::with_capacity(1 << 16, watched));
    let mut tar = TarArchive::new(Forward::new(unzipped));
    let damaged = |error: io::Error| XtaskError::WrongContent {
        path: archive.to_owned(),
        expected: "a complete .tar.gz archive".into(),
        found: error.to_string(),
    };
    let mut budget = SLACK + spec.files.iter().filter_map(|file| file.size).sum::<u64>();
    for entry in tar.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        check(&entry, &mut budget).map_err(|finding| XtaskError::UnsafeArchive {
            path: archive.to_owned(),
            entry: name.clone(),
            finding,
        })?;
        if let Some(wanted) = wanted(&entry, spec) {
            write(&mut entry, &into.join(wanted)).map_err(|error| match error {
                WriteError::Archive(error) => damaged(error),
                WriteError::File(error) => error,
            })?;
        }
    }
    progress.progress(total, total);
    Ok(())
}

/// A file that reports how much of it has been read.
struct Watched<'a> {
    file: File,
    done: u64,
    total: u64,
    progress: &'a dyn Progress,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.done += count as u64;
        self.progress.progress(self.done, self.total);
        Ok(count)
    }
}

/// Checks that an entry may be unpacked; the error says why not. `budget` is the number of bytes
/// left for entries.
fn check(entry: &Entry<impl Read>, budget: &mut u64) -> std::result::Result<(), String> {
    if !matches!(
        entry.header().entry_type(),
        EntryType::Regular | EntryType::Directory
    ) {
        return Err(format!(
            "it is not a regular file but {:?}",
            entry.header().entry_type()
        ));
    }
    let path = entry.path().map_err(|error| error.to_string())?;
    if !path
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Err("its path leads outside the data directory".into());
    }
    *budget = budget
        .checked_sub(entry.size())
        .ok_or_else(|| format!("its {} bytes exceed the size of the data set", entry.size()))?;
    Ok(())
}

/// Returns the name of the required file that this entry is, if any: `directory/name`.
fn wanted<'a>(entry: &Entry<impl Read>, spec: &'a DatasetSpec) -> Option<&'a str> {
    let path = entry.path().ok()?;
    let mut parts = path.components().filter(|part| *part != Component::CurDir);
    let (directory, name) = (parts.next()?, parts.next()?);
    let plain = entry.header().entry_type() == EntryType::Regular && parts.next().is_none();
    if !plain || directory.as_os_str() != spec.directory.as_str() {
        return None;
    }
    spec.files
        .iter()
        .map(|file| file.name.as_str())
        .find(|wanted| name.as_os_str() == *wanted)
}

enum WriteError {
    /// Reading the archive failed.
    Archive(io::Error),
    /// Writing the file failed.
    File(XtaskError),
}

fn write(entry: &mut impl Read, path: &Path) -> std::result::Result<(), WriteError> {
    let failed = |error| WriteError::File(XtaskError::io("write", path)(error));
    // This also rejects a second entry of the same name.
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(failed)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match entry.read(&mut buffer).map_err(WriteError::Archive)? {
            0 => break,
            count => io::Write::write_all(&mut file, &buffer[..count]).map_err(failed)?,
        }
    }
    file.sync_all().map_err(failed)
}
