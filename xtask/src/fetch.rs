//! Installation of a data set in the data directory: complete and verified, or not at all.
//!
//! All work is done in `<data>/.partial`, under a lock that the system releases even for a killed
//! process. The directory is renamed into place only when every file is correct and on disk. A
//! killed run leaves at most a partial download, which the next run resumes, and an unpacked
//! directory, which it removes.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

#[cfg(feature = "hub")]
use perceiver_data::HubDataset;

use crate::download::{Download, HttpOptions};
use crate::error::{Result, XtaskError};
#[cfg(feature = "hub")]
use crate::hub_source::write_from_hub;
use crate::progress::Progress;
use crate::spec::DatasetSpec;
use crate::unpack::unpack;
use crate::verify::{verify_archive, verify_directory};

/// The source of a data set.
#[derive(Clone, Debug)]
pub enum Origin {
    /// The URL of its archive.
    Url(String),
    /// A local copy of its archive.
    Archive(PathBuf),
    /// A directory that is the data set, or contains it or its archive.
    Directory(PathBuf),
    /// The Hub; its images are written in the official layout.
    #[cfg(feature = "hub")]
    Hub(Box<HubDataset>),
}

impl Origin {
    /// Parses `--from`: an http(s) URL, a directory, or an archive.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn from_argument(text: &str, spec: &DatasetSpec) -> Result<Self> {
        let path = PathBuf::from(text);
        match text {
            _ if text.starts_with("http://") || text.starts_with("https://") => {
                Ok(Self::Url(text.to_owned()))
            }
            _ if path.is_dir() => Ok(Self::Directory(path)),
            _ if path.is_file() => Ok(Self::Archive(path)),
            _ => Err(no_source(text, spec)),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(url),
            Self::Archive(path) | Self::Directory(path) => path.display().fmt(f),
            #[cfg(feature = "hub")]
            Self::Hub(dataset) => write!(f, "{} on the Hub", dataset.repo),
        }
    }
}

fn no_source(found: impl Into<String>, spec: &DatasetSpec) -> XtaskError {
    XtaskError::NoSource {
        found: found.into(),
        directory: spec.directory.clone(),
    }
}

/// The outcome of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The data set was already present and correct.
    AlreadyThere,
    /// The data set was installed.
    Installed,
}

/// The installation of a data set.
pub struct Fetch<'a> {
    /// The expected files of the data set.
    pub spec: &'a DatasetSpec,
    /// The parent directory of the data set.
    pub data_dir: &'a Path,
    /// The retries and timeouts of downloads.
    pub http: HttpOptions,
    /// The receiver of messages and progress.
    pub progress: &'a dyn Progress,
}

impl Fetch<'_> {
    /// Returns the final directory of the data set.
    pub fn target(&self) -> PathBuf {
        self.data_dir.join(&self.spec.directory)
    }

    /// Installs the data set from `origin`, unless it is present and correct.
    ///
    /// # Errors
    /// When the origin does not have it complete and correct. Existing files are then kept.
    pub fn run(&self, origin: &Origin) -> Result<Outcome> {
        let target = self.target();
        if verify_directory(&target, self.spec).is_ok() {
            return Ok(Outcome::AlreadyThere);
        }
        let workshop = Workshop::enter(self.data_dir, self.progress)?;
        if let Err(error) = verify_directory(&target, self.spec) {
            if target.exists() {
                self.progress
                    .message(&format!("{error}; it will be replaced"));
            }
        } else {
            return Ok(Outcome::AlreadyThere); // another run was faster
        }
        self.progress
            .message(&format!("fetching {} from {origin}", self.spec.name));
        let fresh = workshop.fresh_directory(&self.spec.directory)?;
        self.fill(origin, &workshop, &fresh)?;
        verify_directory(&fresh, self.spec)?;
        workshop.install(&fresh, &target)?;
        Ok(Outcome::Installed)
    }

    /// Writes the files of the data set to the directory `fresh`.
    fn fill(&self, origin: &Origin, workshop: &Workshop, fresh: &Path) -> Result<()> {
        match origin {
            Origin::Url(url) => {
                let download =
                    Download::new(self.spec, url, &workshop.root, &self.http, self.progress);
                unpack(&download.run()?, self.spec, fresh, self.progress)?;
                // The archive is verified, and the caller verifies its content: it is no longer
                // needed.
                download.discard()
            }
            Origin::Archive(archive) => self.fill_from_archive(archive, fresh),
            Origin::Directory(directory) => self.fill_from_directory(directory, fresh),
            #[cfg(feature = "hub")]
            Origin::Hub(dataset) => {
                let parent = fresh.parent().unwrap_or(fresh);
                write_from_hub(dataset, self.spec, parent, self.progress)
            }
        }
    }

    fn fill_from_archive(&self, archive: &Path, fresh: &Path) -> Result<()> {
        if !self.spec.has_all_sums() {
            verify_archive(archive, self.spec)?;
        }
        unpack(archive, self.spec, fresh, self.progress)
    }

    fn fill_from_directory(&self, directory: &Path, fresh: &Path) -> Result<()> {
        let holds_data = |directory: &PathBuf| {
            self.spec
                .files
                .iter()
                .any(|file| directory.join(&file.name).is_file())
        };
        let candidates = [directory.to_owned(), directory.join(&self.spec.directory)];
        if let Some(source) = candidates.into_iter().find(holds_data) {
            verify_directory(&source, self.spec)?;
            return self
                .spec
                .files
                .iter()
                .try_for_each(|file| copy(&source.join(&file.name), &fresh.join(&file.name)));
        }
        let archive = directory.join(self.spec.archive_name());
        if archive.is_file() {
            return self.fill_from_archive(&archive, fresh);
        }
        Err(no_source(directory.display().to_string(), self.spec))
    }
}

/// Copies the content only: the copy of a read-only file need not be read-only.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut original = File::open(from).map_err(XtaskError::io("read", from))?;
    let mut copy = File::create_new(to).map_err(XtaskError::io("create", to))?;
    io::copy(&mut original, &mut copy).map_err(XtaskError::io("copy", from))?;
    copy.sync_all().map_err(XtaskError::io("write", to))
}

/// `<data>/.partial`, locked against other runs.
struct Workshop {
    root: PathBuf,
    _lock: File,
}

impl Workshop {
    fn enter(data_dir: &Path, progress: &dyn Progress) -> Result<Self> {
        let root = data_dir.join(".partial");
        fs::create_dir_all(&root).map_err(XtaskError::io("create", &root))?;
        let path = root.join("lock");
        let lock = File::create(&path).map_err(XtaskError::io("create", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress.message("waiting for another run of fetch-data to end");
                lock.lock().map_err(XtaskError::io("lock", &path))?;
            }
            Err(TryLockError::Error(error)) => return Err(XtaskError::io("lock", &path)(error)),
        }
        let workshop = Self { root, _lock: lock };
        workshop.sweep()?;
        Ok(workshop)
    }

    fn unpacked(&self) -> PathBuf {
        self.root.join("unpacked")
    }

    fn replaced(&self) -> PathBuf {
        self.root.join("replaced")
    }

    /// Removes the remains of a killed run, except its partial download.
    fn sweep(&self) -> Result<()> {
        for path in [self.unpacked(), self.replaced()] {
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(XtaskError::io("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn fresh_directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.unpacked().join(name);
        fs::create_dir_all(&path).map_err(XtaskError::io("create", &path))?;
        Ok(path)
    }

    /// Moves the directory `fresh` to `target` by one rename, after moving an incorrect one away.
    fn install(&self, fresh: &Path, target: &Path) -> Result<()> {
        sync_directory(fresh)?;
        if fs::symlink_metadata(target).is_ok() {
            let away = self.replaced();
            fs::create_dir_all(&away).map_err(XtaskError::io("create", &away))?;
            fs::rename(target, away.join("directory")).map_err(XtaskError::io("move", target))?;
        }
        fs::rename(fresh, target).map_err(XtaskError::io("create", target))?;
        if let Some(parent) = target.parent() {
            sync_directory(parent)?;
        }
        Ok(())
    }
}

impl Drop for Workshop {
    /// A failed run leaves no half-filled directory. If removal fails too, the next run retries it.
    fn drop(&mut self) {
        let _ = self.sweep();
    }
}

/// Syncs the entries of a directory to disk, where supported, so that they survive a power failure.
fn sync_directory(path: &Path) -> Result<()> {
    if cfg!(unix) {
        let directory = File::open(path).map_err(XtaskError::io("read", path))?;
        directory
            .sync_all()
            .map_err(XtaskError::io("write", path))?;
    }
    Ok(())
}
