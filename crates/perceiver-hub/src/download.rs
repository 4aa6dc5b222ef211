//! Downloads files from the Hub, or finds them in the cache, and verifies each.

use std::path::PathBuf;

use hf_hub::HFError;
use hf_hub::progress::Progress;
use tracing::{debug, warn};

use crate::access::HubAccess;
use crate::check::{RemoteFile, check_file, remove_cached};
use crate::error::{HubError, Result};
use crate::name::RepoName;
use crate::progress::Reporter;
use crate::repo_kind::RepoKind;
use crate::repository::Purpose;
use crate::repository::Repository;
use crate::retry::ATTEMPTS;

/// The branch used if no revision is given.
const DEFAULT_BRANCH: &str = "main";

impl Repository {
    /// Returns the local path of a listed file and downloads it if it is not cached; `local` opens
    /// no connection. A file without the listed size and checksum is removed and downloaded again,
    /// a few times.
    ///
    /// # Errors
    /// [`HubError::WrongDownload`] when every attempt yields a wrong file, and when the Hub refuses
    /// or the cache does not have the file.
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
        let repository = Repository::connect(kind, &self.id, access)?;
        let revision = self.revision.as_deref().unwrap_or(DEFAULT_BRANCH);
        let at = repository.resolve(revision)?;
        let listed = |path: &&str| at.files.iter().find(|file| file.path == **path);
        for path in files {
            let Some(file) = listed(path) else {
                let finding = format!("there is no {path} at {revision}");
                return Err(if at.local {
                    repository.not_cached(&format!("{path} is not in the cache"))
                } else {
                    repository.lacks(finding)
                });
            };
            repository.fetch(file, &at.commit, at.local)?;
        }
        for file in optional.iter().filter_map(listed) {
            repository.fetch(file, &at.commit, at.local)?;
        }
        if !at.local {
            repository.cache_commit(revision, &at.commit)?;
        }
        Ok(repository.snapshot(&at.commit))
    }
}

/// A revision's commit and files at one moment.
struct Resolved {
    commit: String,
    files: Vec<RemoteFile>,
    /// Whether this comes from the cache alone.
    local: bool,
}

impl Repository {
    /// Looks up a revision's commit and files: on the Hub or, offline or without a connection, in
    /// the cache.
    fn resolve(&self, revision: &str) -> Result<Resolved> {
        if !self.access().offline {
            let remote = self.commit_of(revision);
            let remote = remote.and_then(|commit| Ok((self.list(&commit)?, commit)));
            match remote {
                Ok((files, commit)) => {
                    let local = false;
                    return Ok(Resolved {
                        commit,
                        files,
                        local,
                    });
                }
                Err(error @ HubError::Unreachable { .. }) => {
                    if self.list_cached(revision).is_empty() {
                        return Err(error);
                    }
                    warn!(%error, "reading the cache");
                }
                Err(error) => return Err(error),
            }
        }
        let files = self.list_cached(revision);
        if files.is_empty() {
            return Err(self.not_cached(&format!("{revision} is not in the cache")));
        }
        Ok(Resolved {
            commit: self.cached_commit(revision),
            files,
            local: true,
        })
    }

    fn lacks(&self, finding: String) -> HubError {
        HubError::Refused {
            kind: self.kind(),
            repo: self.id().to_owned(),
            finding,
            hint: "choose another repository or revision".into(),
        }
    }
}
