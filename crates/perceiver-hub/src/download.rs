//! Files from the Hub, or from the cache, each checked before it is used.

use std::path::PathBuf;

use hf_hub::HFError;
use hf_hub::progress::Progress;
use tracing::{debug, warn};

use crate::access::HubAccess;
use crate::check::{RemoteFile, check_file, remove_cached};
use crate::error::{HubError, Result};
use crate::name::RepoName;
use crate::progress::Reporter;
use crate::refusal::Purpose;
use crate::repository::{RepoKind, Repository};
use crate::retry::ATTEMPTS;

/// The branch that is meant where none is named.
const DEFAULT_BRANCH: &str = "main";

impl Repository {
    /// A listed file on this machine, downloaded where it is not yet; `local` opens no connection. What does not have the
    /// size and checksum that the listing states is removed and asked for again, a few times.
    ///
    /// # Errors
    /// [`HubError::WrongDownload`] when what arrives is something else every time, and when the Hub refuses, or the cache does
    /// not have the file.
    pub fn fetch(&self, file: &RemoteFile, revision: &str, local: bool) -> Result<PathBuf> {
        let mut attempt = 1;
        loop {
            let download = || self.download(file, revision, local);
            let path = match self.persist(&format!("downloading {}", file.path), download) {
                Ok(path) => path,
                Err(HFError::LocalEntryNotFound { path }) => {
                    return Err(self.not_cached(&format!("{path} is not in the cache")));
                }
                Err(error) => return Err(self.refused(&error, Purpose::Read)),
            };
            let Err(error) = check_file(&path, file) else {
                debug!("{} at {revision}: checked, {}", file.path, path.display());
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
    /// The directory in the cache that holds `files`, all of one commit and each checked, downloaded where they are not yet.
    /// Without a connection, by the wish of `access` or for want of one, it is the commit that the cache has.
    ///
    /// # Errors
    /// When there is no such repository, revision or file, on the Hub or in the cache, and all of [`Repository::fetch`]'s.
    pub fn fetch(&self, kind: RepoKind, access: &HubAccess, files: &[&str]) -> Result<PathBuf> {
        self.fetch_with(kind, access, files, &[])
    }

    /// [`RepoName::fetch`] of `files`, and of those in `optional` that are there.
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
        let at = repository.look_up(revision)?;
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
            repository.note_commit(revision, &at.commit)?;
        }
        Ok(repository.snapshot(&at.commit))
    }
}

/// What a revision is at one moment.
struct Moment {
    commit: String,
    files: Vec<RemoteFile>,
    /// Whether only the cache was asked.
    local: bool,
}

impl Repository {
    /// A revision's commit and files: on the Hub, or, offline or out of its reach, in the cache.
    fn look_up(&self, revision: &str) -> Result<Moment> {
        if !self.access().offline {
            let remote = self.commit_of(revision);
            let remote = remote.and_then(|commit| Ok((self.list(&commit)?, commit)));
            match remote {
                Ok((files, commit)) => {
                    let local = false;
                    return Ok(Moment {
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
        Ok(Moment {
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
