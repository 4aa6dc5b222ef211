//! Downloads files from the Hub, or finds them in the cache, and verifies each.

pub(crate) mod snapshot;

use std::path::PathBuf;

use hf_hub::HFError;
use hf_hub::progress::Progress;
use tracing::{debug, warn};

use crate::access::HubAccess;
use crate::check::{RemoteFile, check_file, remove_cached};
use crate::download::snapshot::Snapshot;
use crate::error::Result;
use crate::name::RepoName;
use crate::progress::Reporter;
use crate::repo_kind::RepoKind;
use crate::repository::Purpose;
use crate::repository::Repository;
use crate::retry::ATTEMPTS;

impl Repository {
    /// Returns the local path of a listed file and downloads it if it is not cached; `local` opens
    /// no connection. A file without the listed size and checksum is removed and downloaded again,
    /// a few times.
    ///
    /// # Errors
    /// [`HubError::WrongDownload`](crate::HubError::WrongDownload) when every attempt yields a wrong
    /// file, and when the Hub refuses or the cache does not have the file.
    pub fn fetch(&self, file: &RemoteFile, revision: &str, local: bool) -> Result<PathBuf> {
        let mut attempt = 1;
        loop {
            let download = || self.download(file, revision, local);
            let path = match self.persist(&format!("downloading {}", file.path), download) {
                Ok(path) => path,
                Err(HFError::LocalEntryNotFound { path }) => {
                    return Err(self.not_cached(&format!("{path} is not in the cache")));
                }
                Err(error) => return Err(self.explain(&error, Purpose::Read)),
            };
            let Err(error) = check_file(&path, file) else {
                debug!("{} at {revision}: verified, {}", file.path, path.display());
                return Ok(path);
            };
            remove_cached(&path)?;
            if local || attempt == ATTEMPTS {
                return Err(error);
            }
            warn!(%error, attempt, "downloading {} again", file.path);
            attempt += 1;
        }
    }

    fn download(
        &self,
        file: &RemoteFile,
        revision: &str,
        local: bool,
    ) -> std::result::Result<PathBuf, HFError> {
        let reporter = Reporter::new(self.access().on_progress.clone());
        self.client()
            .download_file()
            .filename(&file.path)
            .revision(revision)
            .local_files_only(local)
            .progress(Progress::new(reporter))
            .send()
    }
}

impl RepoName {
    /// Returns the cache directory that holds `files`, all of one commit and each verified;
    /// downloads missing ones. Offline, by request of `access` or for lack of a connection, it is
    /// the commit in the cache.
    ///
    /// # Errors
    /// When the repository, revision or file does not exist on the Hub or in the cache, and all
    /// errors of [`Repository::fetch`].
    pub fn fetch(&self, kind: RepoKind, access: &HubAccess, files: &[&str]) -> Result<PathBuf> {
        self.fetch_with(kind, access, files, &[])
    }

    /// Fetches `files` as [`RepoName::fetch`] does, and those of `optional` that exist.
    ///
    /// # Errors
    /// As [`RepoName::fetch`].
    pub fn fetch_with(
        &self,
        kind: RepoKind,
        access: &HubAccess,
        files: &[&str],
        optional: &[&str],
    ) -> Result<PathBuf> {
        let snapshot = Snapshot::open(self, kind, access)?;
        for path in files {
            snapshot.fetch(path)?;
        }
        snapshot.fetch_existing(optional)?;
        snapshot.directory()
    }
}
