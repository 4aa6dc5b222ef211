//! A revision of a repository at one commit, on the Hub or in the cache: its list of files, from
//! which single ones are fetched.

use std::path::PathBuf;

use tracing::warn;

use crate::access::HubAccess;
use crate::check::RemoteFile;
use crate::error::{HubError, Result};
use crate::name::RepoName;
use crate::repo_kind::RepoKind;
use crate::repository::Repository;

/// The branch used if no revision is given.
const DEFAULT_BRANCH: &str = "main";

/// The maximum number of file names in a message.
const MOST_NAMES: usize = 12;

/// A revision's commit and files at one moment.
pub(crate) struct Snapshot {
    repository: Repository,
    revision: String,
    commit: String,
    files: Vec<RemoteFile>,
    /// Whether this comes from the cache alone.
    local: bool,
}

impl Snapshot {
    /// Looks up the commit and the files of a revision once: on the Hub or, offline or without a
    /// connection, in the cache. Downloads nothing.
    ///
    /// # Errors
    /// When neither the Hub nor the cache has the revision.
    pub(crate) fn open(name: &RepoName, kind: RepoKind, access: &HubAccess) -> Result<Self> {
        let repository = Repository::connect(kind, &name.id, access)?;
        let revision = name.revision.as_deref().unwrap_or(DEFAULT_BRANCH);
        let revision = revision.to_owned();
        if !access.offline {
            match on_hub(&repository, &revision) {
                Ok((commit, files)) => {
                    return Ok(Self {
                        repository,
                        revision,
                        commit,
                        files,
                        local: false,
                    });
                }
                Err(error @ HubError::Unreachable { .. }) => {
                    if repository.list_cached(&revision).is_empty() {
                        return Err(error);
                    }
                    warn!(%error, "reading the cache");
                }
                Err(error) => return Err(error),
            }
        }
        let files = repository.list_cached(&revision);
        if files.is_empty() {
            return Err(repository.not_cached(&format!("{revision} is not in the cache")));
        }
        Ok(Self {
            commit: repository.cached_commit(&revision),
            repository,
            revision,
            files,
            local: true,
        })
    }

    /// Returns the first of these files that the revision has.
    pub(crate) fn first_of<'a>(&self, paths: &[&'a str]) -> Option<&'a str> {
        let mut paths = paths.iter();
        paths.find(|path| self.listed(path).is_some()).copied()
    }

    /// Returns the verified local copy of a file, downloaded if it is not cached.
    ///
    /// # Errors
    /// When the revision has no such file, and all errors of [`Repository::fetch`].
    pub(crate) fn fetch(&self, path: &str) -> Result<PathBuf> {
        match self.listed(path) {
            Some(file) => self.repository.fetch(file, &self.commit, self.local),
            None => Err(self.lacks(&format!("there is no {path}"))),
        }
    }

    /// Fetches those of these files that the revision has.
    ///
    /// # Errors
    /// All errors of [`Repository::fetch`].
    pub(crate) fn fetch_existing(&self, paths: &[&str]) -> Result<()> {
        for file in paths.iter().filter_map(|path| self.listed(path)) {
            self.repository.fetch(file, &self.commit, self.local)?;
        }
        Ok(())
    }

    /// Returns the cache directory of the commit, and records in the cache that the revision is
    /// this commit. Called once everything is fetched.
    ///
    /// # Errors
    /// When the cache cannot be written.
    pub(crate) fn directory(&self) -> Result<PathBuf> {
        if !self.local {
            self.repository.cache_commit(&self.revision, &self.commit)?;
        }
        Ok(self.repository.snapshot(&self.commit))
    }

    /// Returns the error for files that the revision does not have, with those it has.
    pub(crate) fn lacks(&self, finding: &str) -> HubError {
        let finding = format!("{finding} at {}, found {}", self.revision, self.names());
        if self.local {
            return self
                .repository
                .not_cached(&format!("{finding} in the cache"));
        }
        self.unusable(finding)
    }

    /// Returns the error for a repository whose files cannot be used.
    pub(crate) fn unusable(&self, finding: String) -> HubError {
        HubError::Refused {
            kind: self.repository.kind(),
            repo: self.repository.id().to_owned(),
            finding,
            hint: "choose another repository or revision".into(),
        }
    }

    fn listed(&self, path: &str) -> Option<&RemoteFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Lists the files by name, or as many as fit into a message.
    fn names(&self) -> String {
        let names = self.files.iter().map(|file| file.path.as_str());
        let names: Vec<&str> = names.take(MOST_NAMES).collect();
        match self.files.len() - names.len() {
            _ if names.is_empty() => "no files".to_owned(),
            0 => names.join(", "),
            more => format!("{} and {more} more", names.join(", ")),
        }
    }
}

/// Asks the Hub for the commit of a revision and for its files.
fn on_hub(repository: &Repository, revision: &str) -> Result<(String, Vec<RemoteFile>)> {
    let commit = repository.commit_of(revision)?;
    let files = repository.list(&commit)?;
    Ok((commit, files))
}
